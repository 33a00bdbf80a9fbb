"""A worker that was frozen while its partitions moved on cannot commit what it still holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills import zombie_drill

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a42_6_a_zombie_is_fenced_wherever_it_froze_and_rejoins(kafka: str, tmp_path: Path) -> None:
    steps = ["begun", "produced", "offsets_sent", "idle"]
    assert len(zombie_drill(kafka, tmp_path, seed=1, steps=steps).faults) == 4
