"""No window is lost, left open or written twice: lanes that end, restarts, outages, retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agents.log_events.agent import log_events_agent
from agents.sessions.agent import sessions_agent
from agents.topics import (
    LOG_EVENTS,
    SESSION_PARTIALS,
    SESSIONS_CLOSED,
    WINDOW_PARTIALS,
    WINDOWS_FINAL,
)
from agents.windows.agent import windows_agent
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER, LANES_MAX
from tables import lanes as lane_marks
from tables.lanes import LANES_TABLE
from tables.progress import PROGRESS_TABLE
from tables.sessions.spec import SessionSpec
from tables.timers import TIMERS_TABLE
from tables.windows.finals import FINALS_TABLE, decode_record
from tables.windows.spec import WindowSpec
from tests.sessions.sessions_driver import users
from tests.windows.driver import HOUR, MINUTE, NOW, TEN, event, minute_spec
from tests.windows.world import World

TUMBLING = minute_spec(name="tumbling")
HOPPING = minute_spec(name="hopping", kind="hopping", size_ms=5 * MINUTE, advance_ms=MINUTE)
DAY = 24 * HOUR


def world(*specs: WindowSpec, sources: int = 2, sessions: Sequence[SessionSpec] = ()) -> World:
    """One worker with all partitions, all of which have been heard of."""
    agents = [log_events_agent(specs, tuple(sessions)), windows_agent(specs)]
    if sessions:
        agents.append(sessions_agent(tuple(sessions)))
    made = World(agents, {LOG_EVENTS: sources, WINDOW_PARTIALS: 1, SESSION_PARTIALS: 1}, NOW)
    made.advance(1_000)
    return made


def put(made: World, timestamp: int, key: str = "/a", partition: int = 0, lane: str = "") -> None:
    """An event of an endpoint, and of a user of that name."""
    headers = ((LANE_HEADER, lane.encode()),) if lane else ()
    made.put(LOG_EVENTS, [event(timestamp, key, user_id=key)], partition, headers)


def fall_idle(made: World) -> None:
    made.settle()
    made.advance(33_000)  # a lane is silent for as long as the partition was read
    made.advance(1_000)


def sweep(made: World) -> None:
    """Rounds of retention over every table."""
    for _ in range(3):
        made.advance(61_000)


def finals(made: World, key: str = "/a", name: str = "") -> list[tuple[int, int, int]]:
    """(minutes after 10:00, revision, count) of a key's final records, in order."""
    records = [decode_record(output.value or b"") for output in made.topics[WINDOWS_FINAL]]
    return [
        ((r.start - TEN) // MINUTE, r.revision, r.count)
        for r in records
        if r.key == key and name in ("", r.name)
    ]


def timers(made: World) -> dict[bytes, object]:
    return made.rows(WINDOW_PARTIALS, TIMERS_TABLE)


def test_more_backfills_than_lanes_in_one_batch_all_close():
    made = world(TUMBLING, sessions=[users()])
    for number in range(LANES_MAX + 20):
        put(made, TEN + number * MINUTE, f"/{number}", lane=f"file-{number}")
    fall_idle(made)
    made.advance(HOUR)
    found = [decode_record(output.value or b"").key for output in made.topics[WINDOWS_FINAL]]
    assert sorted(found) == sorted(f"/{number}" for number in range(LANES_MAX + 20))
    assert timers(made) == {} == made.rows(SESSION_PARTIALS, TIMERS_TABLE)
    assert len(made.topics[SESSIONS_CLOSED]) == LANES_MAX + 20


def test_a_lane_retired_just_before_a_restart_holds_nothing_open():
    made = world(TUMBLING)
    put(made, TEN, lane="file-1")
    for second in range(31):
        for partition in range(2):
            put(made, NOW + second * 1_000, "/x", partition)
        made.advance(1_000)
    made.listen(1_000)
    put(made, NOW + MINUTE, "/x")
    made.pump(TaskId(LOG_EVENTS, 0))
    made.commit()  # all lanes are told of, and again in a second at the earliest
    assert "file-1" in made.committed[TaskId(LOG_EVENTS, 0)][1].by_id
    made.listen(200)
    made.tick()
    made.commit()
    assert "file-1" not in made.committed[TaskId(LOG_EVENTS, 0)][1].by_id
    made.spread(1)
    for _ in range(3):
        made.advance(1_000)
    assert finals(made) == [(0, 1, 1)]


def test_a_key_fed_by_more_lanes_than_a_row_remembers_is_revised_by_live_traffic():
    made = world(TUMBLING)
    put(made, TEN - HOUR, "/z")  # so that the live lane is not beyond the window
    made.settle()
    for number in range(66):
        put(made, TEN, partition=number % 2, lane=f"file-{number}")
        made.settle()
    fall_idle(made)
    before = finals(made)
    assert before[-1][2] == 66
    put(made, TEN)
    fall_idle(made)
    assert finals(made) == [*before, (0, len(before) + 1, 67)]


def test_a_backfill_that_begins_again_after_it_was_forgotten_revises_what_it_fed():
    made = world(TUMBLING)
    put(made, TEN, lane="file-1")
    fall_idle(made)
    sweep(made)
    assert set(made.rows(WINDOW_PARTIALS, LANES_TABLE)) == {b"0/", b"1/"}
    assert b"file-1" not in made.rows(WINDOW_PARTIALS, PROGRESS_TABLE)
    for revision in (2, 3):
        put(made, TEN, lane="file-1")
        fall_idle(made)
        assert finals(made)[-1] == (0, revision, revision)
    assert timers(made) == {}


def test_revisions_go_on_as_long_as_events_keep_the_panes():
    made = world(TUMBLING)
    for partition in range(2):
        put(made, TEN + 10 * MINUTE, "/z", partition)
    put(made, TEN, lane="file-1")
    fall_idle(made)
    made.advance(20 * HOUR)
    put(made, TEN, lane="file-2")
    fall_idle(made)
    made.advance(5 * HOUR)
    sweep(made)
    put(made, TEN, lane="file-3")
    fall_idle(made)
    assert finals(made) == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]
    made.advance(DAY + HOUR)
    sweep(made)
    assert made.rows(WINDOW_PARTIALS, FINALS_TABLE) == {}
    assert made.rows(WINDOW_PARTIALS, "tumbling") == {}


@pytest.mark.parametrize("spec", [TUMBLING, HOPPING], ids=["tumbling", "hopping"])
def test_windows_open_at_an_outage_longer_than_their_retention_are_written_after_it(
    spec: WindowSpec,
):
    made = world(spec)
    for partition in range(2):
        put(made, NOW, partition=partition)
    made.settle()
    made.clock.advance(60 * HOUR)
    made.spread(1)
    for _ in range(35):
        made.advance(1_000)
    assert [(revision, count) for _, revision, count in finals(made)] == [(1, 2)] * spec.panes
    sweep(made)
    assert made.rows(WINDOW_PARTIALS, spec.name) == {} == timers(made)


def test_a_backlog_older_than_the_retention_is_counted_whole():
    made = world(TUMBLING)
    for second in range(10):
        for partition in range(2):
            put(made, NOW + second * 1_000, partition=partition)
    made.clock.advance(60 * HOUR)
    for _ in range(10):  # as fast as it is fed, it is swept
        for partition in range(2):
            made.pump(TaskId(LOG_EVENTS, partition), 1)
        made.commit()
        made.pump(TaskId(WINDOW_PARTIALS, 0))
        made.commit()
        made.tick()
        made.commit()
    fall_idle(made)
    assert finals(made) == [(120, 1, 20)]


def test_a_window_that_was_not_declared_when_it_was_due_is_written_once_it_is():
    made = world(TUMBLING, HOPPING)
    put(made, NOW)
    made.settle()
    without = (replace(TUMBLING, grace_ms=45_000),)
    made.replace([log_events_agent(without), windows_agent(without)])
    fall_idle(made)
    assert finals(made) == [(120, 1, 1)]
    both = (TUMBLING, HOPPING)
    made.replace([log_events_agent(both), windows_agent(both)])
    made.advance(2 * DAY)
    sweep(made)
    assert (120, 1, 1) in finals(made)[1:]
    assert made.rows(WINDOW_PARTIALS, "hopping") == {}


def test_live_windows_close_however_many_backfills_there_were(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lane_marks, "MARKS_MAX", 20)
    made = world(TUMBLING, sources=12)
    for number in range(5):
        for partition in range(12):
            put(made, TEN, "/old", partition, f"file-{number}")
    for timestamp in (NOW, NOW + 4 * MINUTE):
        for partition in range(12):
            put(made, timestamp, "/now", partition)
        made.settle()
    made.advance(1_000)
    assert finals(made, "/now") == [(120, 1, 12)]
    fall_idle(made)
    sweep(made)
    assert len(made.rows(WINDOW_PARTIALS, LANES_TABLE)) == 12
    assert timers(made) == {}


def test_a_window_written_under_a_shorter_grace_is_revised_under_a_longer_one():
    short, long = ((replace(TUMBLING, grace_ms=grace),) for grace in (0, 90_000))
    made = world(*short)
    put(made, TEN)
    for partition in range(2):
        put(made, TEN + MINUTE, "/clock", partition)
    made.settle()
    assert finals(made) == [(0, 1, 1)]
    made.replace([log_events_agent(long), windows_agent(long)])
    put(made, TEN)
    fall_idle(made)
    assert finals(made) == [(0, 1, 1), (0, 2, 2)]
