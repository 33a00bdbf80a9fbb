"""After an outage, what waits is read before any window or session is called final."""

from __future__ import annotations

import json

from agents.topics import LOG_EVENTS, SESSIONS_CLOSED, WINDOWS_FINAL
from app.engine.epoch import TaskId
from tables.windows.finals import decode_record
from tests.sessions.sessions_driver import users
from tests.windows.driver import HOUR, MINUTE, NOW
from tests.windows.test_windows_nothing_lost import (
    HOPPING,
    TUMBLING,
    fall_idle,
    finals,
    put,
    world,
)
from tests.windows.world import World

SECOND = 1_000


def outage(made: World, ms: int) -> None:
    """Every worker is down for so long, and events of each second come in meanwhile."""
    made.running = []
    for _ in range(0, ms, SECOND):
        for partition in range(2):
            put(made, made.clock.now_ms(), partition=partition)
        made.clock.advance(SECOND)
    made.spread(1)


def second_without_reading(made: World) -> None:
    """A second passes with its ticks; of the source nothing is read, of partials everything."""
    made.listen(SECOND)
    made.tick()
    while made.commit():
        for task in made.ids:
            if task.topic != LOG_EVENTS:
                made.pump(task)


def test_no_window_is_written_early_after_an_outage_longer_than_the_idle_timeout():
    made = world(TUMBLING, HOPPING, sessions=[users()])
    put(made, NOW, partition=0)
    put(made, NOW, partition=1)
    made.advance(SECOND)
    outage(made, 10 * MINUTE)
    for _ in range(40):
        second_without_reading(made)
    for partition in (0, 1, 0):
        made.pump(TaskId(LOG_EVENTS, partition), 300)
        second_without_reading(made)
    made.advance(SECOND)
    fall_idle(made)
    made.advance(HOUR)
    records = [decode_record(output.value or b"") for output in made.topics[WINDOWS_FINAL]]
    assert {record.revision for record in records} == {1}
    assert sum(r.count for r in records if r.name == "tumbling") == 2 * 600 + 2
    said = [json.loads(output.value or b"") for output in made.topics[SESSIONS_CLOSED]]
    assert [(each["revision"], each["count"]) for each in said] == [(1, 1202)]


def test_a_slow_backlog_keeps_its_lanes_open_for_as_long_as_it_is_read():
    made = world(TUMBLING)
    put(made, NOW, partition=0, lane="file-1")
    put(made, NOW, partition=1)
    made.advance(SECOND)
    outage(made, 10 * MINUTE)
    put(made, NOW, partition=0, lane="file-1")
    for _ in range(0, 600, 5):  # two minutes of work, in which the file says nothing
        for partition in range(2):
            made.pump(TaskId(LOG_EVENTS, partition), 5)
        second_without_reading(made)
    assert "file-1" in made.committed[TaskId(LOG_EVENTS, 0)][1].by_id
    made.advance(SECOND)
    fall_idle(made)
    assert {revision for _, revision, _ in finals(made)} == {1}


def test_a_session_does_not_end_by_silence_that_nobody_was_there_to_hear():
    made = world(TUMBLING, sessions=[users(gap_ms=20 * MINUTE)])
    put(made, NOW)
    fall_idle(made)
    made.running = []
    for minute in range(15, 45, 15):
        made.clock.advance(15 * MINUTE)
        put(made, NOW + minute * MINUTE)
    made.spread(1)
    for _ in range(3):
        second_without_reading(made)
    made.settle()
    fall_idle(made)
    made.advance(HOUR)
    said = [json.loads(output.value or b"") for output in made.topics[SESSIONS_CLOSED]]
    assert [(each["revision"], each["count"]) for each in said] == [(1, 3)]
