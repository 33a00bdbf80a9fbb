"""A commit that took long says in the log where the time went; others say nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.clock import SystemClock
from app.engine.transaction import CommitFailedError, TransactionalWriter
from tests.engine.test_engine_fencing import joined
from tests.engine.test_engine_restore import NEVER, World, an_epoch

pytestmark = pytest.mark.broker


class Skipping(SystemClock):
    """Time that passes faster than it does, at one step of a commit."""

    step, skipped_s = "", 0.0

    def probe(self, step: str) -> None:
        if step == self.step:
            self.skipped_s += 3.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s


@pytest.fixture
def world(kafka: str, namespace: str, tmp_path: Path) -> Iterator[World]:
    made = World(kafka, namespace, tmp_path)
    yield made
    made.close()


async def test_a_slow_commit_names_the_part_that_took_its_time(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Skipping()
    writer = TransactionalWriter(world.config, clock.probe, clock)
    caplog.set_level(logging.WARNING, "app.engine.transaction")
    async with joined(world) as worker:
        membership = worker.membership()
        clock.step = "offsets_sent"
        await asyncio.to_thread(writer.commit, an_epoch(membership), NEVER)
    told = [each.message for each in caplog.records if "was slow" in each.message]
    assert len(told) == 1
    parts = dict(part.rsplit(" ", 2)[:2] for part in told[0].split(": ", 1)[1].split(", "))
    assert list(parts) == ["beginning", "records", "offsets", "commit", "the rest"]
    assert max(parts, key=lambda part: float(parts[part])) == "offsets"
    clock.step = "produced"
    with pytest.raises(CommitFailedError):  # it has left the group: its offsets are not taken
        await asyncio.to_thread(writer.commit, an_epoch(membership), NEVER)
    writer.close()
    assert "records 3." in caplog.records[-1].message
