"""A worker whose disk is full says so and goes on, exactly, once there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills_disk import disk_full_drill

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a_full_disk_loses_and_doubles_nothing(kafka: str, tmp_path: Path) -> None:
    disk_full_drill(kafka, tmp_path, seed=1)
