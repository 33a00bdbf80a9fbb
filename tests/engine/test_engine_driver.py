"""The brokerless driver runs the shipped agents as a worker does."""

from __future__ import annotations

import json
from typing import Any

from agents.log_events.agent import log_events_agent
from agents.normalise.agent import normalise_agents
from agents.windows.agent import windows_agent
from app.engine.driver import Driver
from app.engine.epoch import TaskId
from tables.windows.keys import parse_row_key
from tables.windows.stats import WindowStats
from tests.windows.driver import minute_spec

START = 1_790_000_000_000 // 60_000 * 60_000
PARTITIONS = {
    "application-logs": 2,
    "infrastructure-metrics": 2,
    "log-events": 2,
    "window-partials": 3,
}


def shipped() -> Driver:
    windows = (minute_spec(),)
    agents = (*normalise_agents(), log_events_agent(windows), windows_agent(windows))
    return Driver(agents, PARTITIONS, now_ms=START)


def posted(endpoint: str, at_ms: int, **fields: Any) -> bytes:
    return json.dumps(
        {"source": "shop", "endpoint": endpoint, "timestamp": at_ms, "status": 200, **fields}
    ).encode()


def counts(driver: Driver) -> dict[tuple[str, int], int]:
    rows = driver.rows("window-partials", minute_spec().name)
    found = {}
    for key, row in rows.items():
        assert isinstance(row, WindowStats)
        found[parse_row_key(key)] = row.count
    return found


def test_records_of_a_shipper_topic_reach_their_window_through_all_hops() -> None:
    driver = shipped()
    driver.feed("application-logs", [posted("/a", START), posted("/b", START + 1)], partition=1)
    driver.feed("application-logs", [posted("/a", START + 2, status=500)])
    assert counts(driver) == {("/a", START): 2, ("/b", START): 1}
    assert len(driver.topics["log-events"]) == 3


def test_garbage_is_dead_lettered_with_its_coordinates_and_changes_nothing() -> None:
    driver = shipped()
    driver.feed("log-events", [b"\xff", posted("/a", START), None], partition=1)
    dead = [dict(output.headers) for output in driver.topics["log-events-dlq"]]
    assert [(d["original_partition"], d["original_offset"]) for d in dead] == [
        (b"1", b"0"),
        (b"1", b"1"),
        (b"1", b"2"),
    ]
    assert counts(driver) == {}
    assert driver.tasks[TaskId("log-events", 1)].committed_counts.rejected == 3


def test_time_that_passes_retires_a_silent_lane() -> None:
    driver = shipped()
    driver.feed("application-logs", [posted("/a", START)], headers=[("lane", b"ship-1")])
    task = next(t for t in driver.tasks.values() if t.lanes.by_id)
    assert "ship-1" in task.lanes.by_id
    driver.advance(31_000)
    assert "ship-1" not in task.lanes.by_id
