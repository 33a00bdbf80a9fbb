"""Workers that come and go under load change no window."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills import (
    clock_jump_drill,
    held_up_drill,
    join_and_leave_drill,
    rolling_restart_drill,
)

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_workers_join_and_leave_under_load_and_end_well_when_asked(
    kafka: str, tmp_path: Path
) -> None:
    assert len(join_and_leave_drill(kafka, tmp_path, seed=1).faults) == 3


def test_a_rolling_restart_of_three_workers_under_load_is_exact(kafka: str, tmp_path: Path) -> None:
    assert len(rolling_restart_drill(kafka, tmp_path, seed=1).faults) == 3


def test_a_commit_that_hangs_holds_up_no_rebalance_and_nothing_is_lost_or_doubled(
    kafka: str, tmp_path: Path
) -> None:
    assert len(held_up_drill(kafka, tmp_path, seed=1, step="offsets_sent").faults) == 1


def test_clocks_that_jump_an_hour_ahead_and_back_change_no_window(
    kafka: str, tmp_path: Path
) -> None:
    assert len(clock_jump_drill(kafka, tmp_path, seed=1).faults) == 5
