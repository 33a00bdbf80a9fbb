"""The brokerless driver runs the shipped agents as a worker does."""

from __future__ import annotations

import json
from typing import Any

from agents.log_events.agent import log_events_agent
from agents.normalise.agent import normalise_agents
from agents.windows.agent import windows_agent
from app.engine.batch import header
from app.engine.driver import Driver
from app.engine.effects import Effects, View
from app.engine.epoch import TaskId
from app.engine.spec import AgentSpec, FailurePolicy
from app.engine.task import TaskState
from tables.windows.keys import parse_row_key
from tables.windows.stats import WindowStats
from tests.engine.rig import SOURCE, counting_agent
from tests.engine.test_engine_failures import ATTEMPTS, Fickle, poison_step, strict_step, told
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


def alone(agent: AgentSpec) -> Driver:
    return Driver([agent], {"source": 1, "dead": 1}, now_ms=START)


def test_a34_6_without_a_broker_poison_is_dead_lettered_alone() -> None:
    driver = alone(counting_agent(step=poison_step))
    driver.feed("source", [b"a", b"poison", b"b"])
    assert driver.rows("source", "counts") == {b"a": 1, b"b": 1}
    assert [output.value for output in driver.topics["dead"]] == [b"poison"]
    assert driver.clock.now_ms() == START


def test_a34_6_without_a_broker_a_retried_step_that_recovers_rejects_nothing() -> None:
    driver = alone(counting_agent(step=Fickle(2), on_failure=FailurePolicy.RETRY))
    driver.feed("source", [b"a", b"b"])
    assert driver.rows("source", "counts") == {b"a": 1, b"b": 1}
    assert driver.topics["dead"] == []
    assert driver.clock.now_ms() == START + 2_500


def test_a34_6_without_a_broker_what_fails_each_time_is_dead_lettered_after_four_attempts() -> None:
    driver = alone(counting_agent(step=poison_step, on_failure=FailurePolicy.RETRY))
    driver.feed("source", [b"poison", b"b"])
    [dead] = driver.topics["dead"]
    assert told(dead, *ATTEMPTS) == [4, START, START + 10_500]
    assert header(dead.headers, "original_offset") == b"0"
    assert driver.rows("source", "counts") == {b"b": 1}


def test_a34_6_without_a_broker_stop_halts_before_the_batch_and_takes_nothing_more() -> None:
    def ticked(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        return Effects(updates={"counts": {b"tick": 1}})

    driver = alone(counting_agent(step=strict_step, tick=ticked, on_failure=FailurePolicy.STOP))
    driver.feed("source", [b"a"])
    driver.feed("source", [b"b", b"garbage"])
    driver.feed("source", [b"c"])
    driver.advance(1_000)
    task = driver.tasks[SOURCE]
    assert (task.state, task.committed_position) == (TaskState.HALTED, 1)
    assert "rejected offset 2: body: is not JSON; mend the cause" in task.halted_by
    assert driver.rows("source", "counts") == {b"a": 1}
    assert driver.topics["dead"] == []
