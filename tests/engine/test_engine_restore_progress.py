"""What is said and measured of a restore, and how a stalled one names its cause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from app.engine.epoch import TaskId
from app.engine.progress import ASK_AFTER_S, SAY_EVERY_S, STALL_S, Progress, RestoreWatch
from app.engine.queries import Cluster, EngineQueries
from app.engine.starts import Start, Starter
from app.engine.task import Task
from tests.engine.rig import MEMBERSHIP, SOURCE, ManualClock, Rig

MIB = 1 << 20


def reading(clock: ManualClock, offsets: int = 1_000) -> Progress:
    progress = Progress(clock)
    progress.waits("changelog records")
    progress.wants(offsets)
    return progress


def test_the_time_left_follows_the_pace_so_far() -> None:
    clock = ManualClock()
    progress = reading(clock)
    assert progress.seconds_left() is None
    clock.advance(2.0)
    # Compaction left 100 records in 250 offsets: what is left is judged by offsets.
    progress.reads(250, 100, 3 * MIB)
    assert progress.seconds_left() == 6.0
    assert str(progress) == (
        "100 changelog records (3.0 MiB) read, 750 offsets to go, about 6 s left, "
        "waiting for changelog records"
    )


def test_offsets_passed_twice_are_not_wanted_twice() -> None:
    clock = ManualClock()
    progress = reading(clock, 1_000)
    progress.reads(400, 400, MIB)
    progress.wants(600)  # the broker was away: the rest is asked for anew
    clock.advance(4.0)
    assert progress.seconds_left() == 6.0
    progress.reads(700, 700, MIB)  # and more had come to the end meanwhile
    assert progress.seconds_left() == 0.0


def test_a_restore_says_how_far_it_is_every_few_seconds_and_not_more_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = ManualClock()
    progress, watch = reading(clock), RestoreWatch(clock)
    for _ in range(int(3 * SAY_EVERY_S) + 1):
        watch.look(progress)
        progress.reads(10, 10, 0)
        clock.advance(1.0)
    said = [record for record in caplog.records if "changelog records" in record.message]
    assert [record.levelno for record in said] == [logging.INFO] * 3
    assert "50 changelog records" in said[0].message


def test_a_stall_is_said_once_with_its_cause_and_again_after_it_moved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    progress, watch = reading(clock), RestoreWatch(clock)
    for _ in range(2):
        caplog.clear()
        progress.reads(1, 1, 0)
        progress.explain("a transaction holds t/0")
        clock.advance(STALL_S - 0.1)
        watch.look(progress)
        assert caplog.records == []
        clock.advance(0.1)
        for _ in range(30):
            watch.look(progress)
            clock.advance(1.0)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "nothing has moved for 10 s: a transaction holds t/0" in caplog.text


def test_a_question_that_waits_as_long_is_a_broker_that_does_not_answer() -> None:
    clock = ManualClock()
    progress = reading(clock)
    clock.advance(STALL_S)
    assert "the broker does not answer" in str(progress)


def test_to_ask_the_same_again_is_no_movement() -> None:
    clock = ManualClock()
    progress = Progress(clock)
    for _ in range(5):
        progress.waits("the group's committed offsets")
        progress.waits("the broker to tell where topics begin and end")
        clock.advance(STALL_S / 4)
    assert progress.stalled()


def test_a_cause_is_looked_for_in_time_and_again_while_the_stall_lasts() -> None:
    clock = ManualClock()
    progress = reading(clock)
    asked = []
    for second in range(30):
        if progress.in_doubt():
            asked.append(second)
            progress.explain("the broker is busy")
        clock.advance(1.0)
    assert asked == [ASK_AFTER_S, ASK_AFTER_S + STALL_S, ASK_AFTER_S + 2 * STALL_S]


def test_what_nobody_waits_for_any_more_does_not_stall() -> None:
    clock = ManualClock()
    progress = reading(clock)
    progress.end()
    progress.waits("changelog records")  # a thread that has not noticed yet
    clock.advance(10 * STALL_S)
    assert (progress.waiting_for, progress.stalled(), str(progress)[:2]) == ("", False, "0 ")


def test_gauges_exist_as_long_as_changelogs_are_read() -> None:
    clock, registry = ManualClock(), CollectorRegistry()
    watch = RestoreWatch(clock)
    registry.register(watch)

    def shown() -> dict[str, float]:
        return {s.name: s.value for metric in registry.collect() for s in metric.samples}

    assert shown() == {}
    progress = reading(clock)
    watch.look(progress)
    assert shown() == {"restore_records": 0, "restore_bytes": 0}
    clock.advance(1.0)
    progress.reads(500, 400, MIB)
    assert shown() == {"restore_records": 400, "restore_bytes": MIB, "restore_seconds_left": 1.0}
    progress.end()
    assert shown() == {}


class _Restoring:
    """A starter that has come so far, and comes no further."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    async def starts(self, tasks: Sequence[Task]) -> Mapping[TaskId, Start]:  # noqa: ARG002
        await asyncio.Event().wait()
        raise AssertionError

    def cancel(self) -> None:
        pass

    async def idle(self, deadline_s: float) -> None:
        pass

    def close(self) -> None:
        pass


async def test_ready_and_metrics_tell_of_the_restore_of_an_engine(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    progress = reading(rig.clock)
    rig.engine.starter = cast(Starter, _Restoring(progress))
    await rig.engine.assign([SOURCE], MEMBERSHIP)
    rig.engine.watch.look(rig.engine.tasks, rig.flow, progress, MEMBERSHIP)
    progress.reads(250, 200, 0)
    progress.explain("a transaction holds it")
    queries = EngineQueries(rig.engine, cast(Cluster, None), rig.clock)
    ready, detail = queries.ready()
    assert (ready, detail) == (
        False,
        "restoring 1 of 1 partitions: 200 changelog records (0.0 MiB) read, 750 offsets to go, "
        "about 0 s left, waiting for changelog records",
    )
    assert rig.metric("restore_records") == 200
    rig.clock.advance(STALL_S)
    assert "nothing has moved for 10 s: a transaction holds it" in queries.ready()[1]
    await rig.engine.close()
