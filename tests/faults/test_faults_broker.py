"""Workers outlive what happens to the broker and to the way there, and count exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drills_broker import broker_kill_drill, broker_pause_drill, connection_drill
from tests.faults.own_broker import OwnBroker

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def test_a_broker_killed_within_a_commit_loses_and_doubles_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    assert len(broker_kill_drill(drill_broker, tmp_path, seed=1, shares=(0.3,)).faults) == 1


def test_a_broker_paused_beyond_the_transaction_timeout_loses_and_doubles_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    broker_pause_drill(drill_broker, tmp_path, seed=1)


def test_connections_slow_cut_and_refused_lose_and_double_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    assert len(connection_drill(drill_broker, tmp_path, seed=1).faults) == 5
