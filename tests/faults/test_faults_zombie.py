"""A worker that was frozen while its partitions moved on cannot commit what it still holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills import zombie_drill

pytestmark = [pytest.mark.broker, pytest.mark.faults]


@pytest.mark.parametrize("step", ["begun", "produced", "offsets_sent", "idle"])
def test_a_zombie_doubles_nothing_and_rejoins(kafka: str, tmp_path: Path, step: str) -> None:
    zombie_drill(kafka, tmp_path, seed=1, step=step)
