"""Kills of workers, wherever in a commit they fall, change no window."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills import kill_drill
from tests.faults.trap import KILL_STEPS

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a_kill_at_each_step_of_a_commit_and_a_lost_disk_change_no_window(
    kafka: str, tmp_path: Path
) -> None:
    assert len(kill_drill(kafka, tmp_path, seed=1).faults) == len(KILL_STEPS)
