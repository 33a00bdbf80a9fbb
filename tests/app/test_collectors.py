"""What a worker does without being asked, by its settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.engine.clock import SystemClock
from app.serving import AUDIT, collectors
from app.settings import Settings


async def rounds() -> None:
    """Stands for the auditor's rounds."""


def named(settings: Settings, *, first: bool) -> set[str]:
    web = SimpleNamespace(web_app={AUDIT: SimpleNamespace(run=rounds)})
    app = SimpleNamespace(settings=settings, clock=SystemClock(), web=web)
    running = collectors(cast("Any", app), cast("Any", None), first=first)
    for each in running:
        each.close()
    return {each.__qualname__ for each in running}


@pytest.mark.parametrize("first", [True, False])
def test_every_worker_of_a_machine_keeps_its_embedded_broker_up(
    tmp_path: Path, first: bool
) -> None:
    assert "keep_broker" in named(Settings(home=tmp_path), first=first)


def test_a_cluster_is_nobodys_to_keep_up(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, broker="kafka://a:9092")
    assert named(settings, first=True) == {"rounds"}
