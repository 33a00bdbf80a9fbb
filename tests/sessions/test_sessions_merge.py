"""The agent of session-partials: what it takes, what it refuses, what it keeps and for how long."""

from __future__ import annotations

import msgspec
import pytest

from agents.log_events.columns import EventColumns
from agents.log_events.decode import EventReader
from agents.sessions.local import LocalSessions
from agents.sessions.repartition import PartialKey, encode_partial, session_repartition
from agents.topics import DEAD_LETTERS, SESSION_PARTIALS
from app.engine.batch import Headers, RecordBatch
from app.engine.chunks import Chunk, LaneMark, encode_chunk
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER, Lanes
from tables.lanes import LANES_TABLE, LaneTimes
from tables.sessions.closing import kept_sessions
from tables.sessions.rows import UserSessions
from tables.sessions.state import Closed, Partial, Session
from tables.sessions.stats import HOUR_MS, STATS_TABLE, hour_key
from tables.sessions.times import with_silence
from tables.timers import TIMERS_TABLE
from tests.sessions.sessions_driver import DAY, HOUR, MINUTE, TEN, Rig, at, event, users

GAP = 30 * MINUTE
GOOD = Session(TEN, TEN + 5, 2, 1, (), ("",), TEN)
KEY = ("users", "u", 0)


def chunk(partial: Partial, key: tuple[str, str, int] = KEY, source: int = 0) -> bytes:
    marks = {f"{source}/": LaneMark(TEN, TEN, idle=False)}
    return encode_chunk(Chunk(marks, [encode_partial(key, partial)]))


FOREIGN = {
    "no value": None,
    "garbage": b"garbage",
    "another source": chunk(Partial(GAP, (GOOD,)), source=1 << 16),
    "an empty user": chunk(Partial(GAP, (GOOD,)), ("users", "", 0)),
    "a contradiction": chunk(Partial(GAP, (msgspec.structs.replace(GOOD, end=TEN - 1),))),
    "a lane of no name": encode_chunk(Chunk({"0/a b": LaneMark(1, 1, idle=False)}, [])),
}
OTHERWISE = {
    "no longer": (("nobody", "u", 0), Partial(GAP, (GOOD,))),
    "with another gap": (KEY, Partial(GAP + 1, (GOOD,))),
    "with another funnel": (
        KEY,
        Partial(GAP, (msgspec.structs.replace(GOOD, steps=((TEN,), ()), pages=1),)),
    ),
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_chunk_that_no_local_stage_wrote_goes_to_the_dead_letters(value: bytes | None) -> None:
    rig = Rig()
    rig.driver.feed(SESSION_PARTIALS, [chunk(Partial(GAP, (GOOD,))), value])
    assert rig.row() == (GOOD,)
    [letter] = rig.driver.topics[DEAD_LETTERS]
    assert letter.value == value
    counts = rig.driver.tasks[TaskId(SESSION_PARTIALS, 0)].committed_counts
    assert counts.rejected == 1
    assert "0/a b" not in {k.decode() for k in rig.driver.rows(SESSION_PARTIALS, LANES_TABLE)}


@pytest.mark.parametrize("partial", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_what_was_under_way_for_another_declaration_costs_the_others_nothing(
    partial: tuple[PartialKey, Partial],
) -> None:
    rig = Rig()
    partials = [encode_partial(*partial), encode_partial(KEY, Partial(GAP, (GOOD,)))]
    marks = {"0/": LaneMark(TEN, TEN, idle=False)}
    rig.driver.feed(SESSION_PARTIALS, [encode_chunk(Chunk(marks, partials))])
    assert rig.row() == (GOOD,)
    assert rig.driver.topics[DEAD_LETTERS] == []


def test_a_late_event_during_the_retention_is_kept_as_long_again() -> None:
    rig = Rig(now_ms=TEN)
    rig.at("10:00")
    rig.silence(40 * MINUTE, 10 * MINUTE)
    rig.silence(2 * DAY - 2 * HOUR, HOUR)
    rig.feed([event(TEN - 5 * MINUTE)], lane="file-1")
    rig.silence(HOUR, 20 * MINUTE)
    assert rig.held() == [(-5, 5, 2)]
    assert [each["revision"] for each in rig.closed()] == [1, 2]
    rig.silence(2 * DAY + HOUR, HOUR)
    assert rig.held() == []


def test_a_session_does_not_leave_while_its_lanes_lag_however_long_that_takes() -> None:
    spec = users()
    closed = (Closed(TEN, TEN, 1, 0, 0, 1),)
    session = Session(TEN, TEN, 1, 0, (), ("",), TEN, closed)
    row, late = UserSessions(1, (session,)), TEN + 9 * DAY

    def kept(watermark: int, now_ms: int = late) -> bool:
        return bool(kept_sessions(spec, row, LaneTimes({"": watermark}), now_ms))

    assert kept(TEN + spec.mergeable_ms)
    assert not kept(TEN + spec.mergeable_ms + 1)
    assert kept(TEN + 9 * DAY, TEN + spec.retention_ms - 1)
    assert not kept(TEN + 9 * DAY, TEN + spec.retention_ms)
    opened = msgspec.structs.replace(session, closed=())
    assert kept_sessions(spec, UserSessions(1, (opened,)), LaneTimes({}), late)


def test_a_row_keeps_its_younger_sessions_when_an_older_one_leaves() -> None:
    rig = Rig(now_ms=TEN)
    rig.at("10:00")
    rig.silence(DAY, HOUR)
    rig.feed([event(TEN + DAY)])
    rig.silence(DAY + 3 * HOUR, HOUR)
    assert rig.held() == [(DAY // MINUTE, 0, 1)]
    assert rig.total() == 2


def test_sums_leave_after_their_own_retention_and_the_open_count_never() -> None:
    rig = Rig(specs=(users(analytics_retention_ms=3 * DAY),), now_ms=TEN)
    rig.at("10:00")
    rig.silence(3 * DAY, HOUR)
    assert rig.total() == 1
    rig.silence(2 * HOUR, HOUR)
    assert rig.total() == 0
    assert len(rig.driver.rows(SESSION_PARTIALS, STATS_TABLE)) == 1


def test_marks_of_a_backfill_that_ended_leave_and_those_of_live_traffic_stay() -> None:
    rig = Rig(now_ms=TEN)
    rig.at("10:00")
    rig.feed([event(TEN - DAY, "old")], lane="file-1")
    marks = set(rig.driver.rows(SESSION_PARTIALS, LANES_TABLE))
    assert marks == {b"0/", b"0/file-1"}
    rig.silence(2 * DAY + HOUR, HOUR)
    assert set(rig.driver.rows(SESSION_PARTIALS, LANES_TABLE)) == {b"0/"}
    assert rig.driver.rows(SESSION_PARTIALS, TIMERS_TABLE) == {}


def test_a_change_of_the_declaration_begins_with_empty_rows_and_sums() -> None:
    one, other = users(), users(gap_ms=GAP + 1)
    assert one.table().identity != other.table().identity
    assert hour_key(one.fingerprint, TEN) != hour_key(other.fingerprint, TEN)
    assert users(lateness_ms=1).table().identity == one.table().identity


def test_silent_live_lanes_go_on_by_the_clock_from_the_furthest_of_them() -> None:
    marks = {
        "0/": LaneMark(seen_ms=1_000, watermark_ms=500, idle=True),
        "1/": LaneMark(seen_ms=2_000, watermark_ms=100, idle=True),
        "2/": LaneMark(seen_ms=9_000, watermark_ms=-1, idle=True),
    }
    assert with_silence(marks, 3, 10_000).of_lane("") == 9_500
    assert with_silence(marks, 4, 10_000).of_lane("") == -1
    marks["1/"] = LaneMark(2_000, 100, idle=False)
    assert with_silence(marks, 3, 10_000).of_lane("") == 100


def test_events_of_two_lanes_in_one_batch_wait_each_for_its_own() -> None:
    [spec] = Rig().specs
    step = LocalSessions(spec, session_repartition(SESSION_PARTIALS))
    read_events = EventReader(step.reads)
    headers: list[Headers] = [(), ((LANE_HEADER, b"f"),)] * 2
    values = [event(TEN + n * MINUTE) for n in range(4)]
    batch = RecordBatch("log-events", 0, range(4), [TEN] * 4, [b""] * 4, values, headers)
    partials = step.partials(EventColumns(read_events(batch, Lanes()).events)).values
    [partial] = partials.values()
    [session] = partial.sessions
    assert (session.lanes, session.count) == (("", "f"), 4)
    single = [event(TEN, "a"), event(TEN, "b")] * 2
    batch = RecordBatch("log-events", 0, range(4), [TEN] * 4, [b""] * 4, single, headers)
    partials = step.partials(EventColumns(read_events(batch, Lanes()).events)).values
    lanes = {user: partial.sessions[0].lanes for (_, user, _), partial in partials.items()}
    assert lanes == {"a": ("",), "b": ("f",)}


def test_a_user_of_many_lanes_waits_for_all_there_are() -> None:
    rig = Rig()
    for number in range(70):
        rig.feed([event(TEN)], lane=f"file-{number}")
    assert rig.row()[0].lanes == ("*",)
    assert rig.row()[0].count == 70
    rig.silence(40_000, 1_000)
    rig.time("12:00")
    rig.silence(40_000, 1_000)
    [said] = rig.closed()
    assert (said["count"], said["start"] % HOUR_MS) == (70, at("10:00") % HOUR_MS)
