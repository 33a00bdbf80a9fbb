"""Static members keep their partitions over a restart, and none has a double."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills_static import duplicate_drill, static_restart_drill

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a_static_member_restarted_within_the_session_keeps_its_partitions_without_a_rebalance(
    kafka: str, tmp_path: Path
) -> None:
    assert len(static_restart_drill(kafka, tmp_path, seed=1).faults) == 2


def test_of_two_workers_with_one_instance_id_the_former_ends_and_names_it(
    kafka: str, tmp_path: Path
) -> None:
    former, instance = duplicate_drill(kafka, tmp_path)
    assert former.worker.process.returncode not in (0, -9)
    assert instance.endswith(f"-{former.port}")
