"""Nothing that arrives on a topic ends a worker or changes a window it has no part in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills_input import foreign_transactions_drill, garbage_drill

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_garbage_on_every_topic_is_dead_lettered_once_and_changes_no_window(
    kafka: str, tmp_path: Path
) -> None:
    garbage_drill(kafka, tmp_path, seed=1)


def test_a42_4_of_foreign_transactions_only_the_committed_count(kafka: str, tmp_path: Path) -> None:
    assert {"abort", "commit", "die"} == set(
        foreign_transactions_drill(kafka, tmp_path, seed=1).faults
    )
