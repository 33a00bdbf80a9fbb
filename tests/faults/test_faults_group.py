"""Workers that come and go under load change no window."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills import (
    clock_jump_drill,
    held_up_drill,
    join_and_leave_drill,
    rolling_restart_drill,
    scale_out_drill,
)

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a33_1_twelve_partitions_are_shared_evenly_by_three_workers_and_by_two_once_one_is_killed(
    kafka: str, tmp_path: Path
) -> None:
    assert len(scale_out_drill(kafka, tmp_path, seed=1).faults) == 2


def test_a40_5_a41_4_workers_join_and_leave_under_load_and_no_key_loses_its_sequence(
    kafka: str, tmp_path: Path
) -> None:
    assert len(join_and_leave_drill(kafka, tmp_path, seed=1).faults) == 3


def test_a33_5_a_rolling_restart_of_three_workers_leaves_no_partition_idle_and_is_exact(
    kafka: str, tmp_path: Path
) -> None:
    assert len(rolling_restart_drill(kafka, tmp_path, seed=1).faults) == 4


def test_a_commit_that_hangs_holds_up_no_rebalance_and_nothing_is_lost_or_doubled(
    kafka: str, tmp_path: Path
) -> None:
    assert len(held_up_drill(kafka, tmp_path, seed=1, step="offsets_sent").faults) == 1


def test_clocks_that_jump_an_hour_ahead_and_back_change_no_window(
    kafka: str, tmp_path: Path
) -> None:
    assert len(clock_jump_drill(kafka, tmp_path, seed=1).faults) == 5
