"""Sessions from event to record, without a broker: gaps, late events, revisions, ends."""

from __future__ import annotations

import pytest

from agents.topics import LATE_EVENTS, LOG_EVENTS, SESSION_PARTIALS
from app.engine.epoch import TaskId
from tables.sessions.matching import match_of
from tables.timers import TIMERS_TABLE
from tests.sessions.sessions_driver import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    TEN,
    Rig,
    at,
    event,
    plain_sessions,
    users,
)
from tests.windows.driver import minute_spec


def spans(rig: Rig) -> list[tuple[int, int, int]]:
    """(minutes after 10:00, minutes long, events) of the sessions that stand."""
    found = [
        ((s["start"] - TEN) // MINUTE, s["duration_ms"] // MINUTE, s["count"])
        for s in rig.standing().values()
    ]
    return sorted(found)


def test_a46_5_a_late_event_between_two_sessions_makes_them_one_without_a_remnant() -> None:
    rig = Rig(specs=(users(gap_ms=30 * SECOND),))
    for seconds in (0, 20, 60):
        rig.feed([event(TEN + seconds * SECOND)])
    assert [(s.start - TEN, s.end - TEN, s.count) for s in rig.row()] == [
        (0, 20 * SECOND, 2),
        (60 * SECOND, 60 * SECOND, 1),
    ]
    rig.feed([event(TEN + 40 * SECOND)])
    assert [(s.start - TEN, s.end - TEN, s.count) for s in rig.row()] == [(0, 60 * SECOND, 4)]
    rig.time("10:02")
    [session] = rig.standing().values()  # the first of the two had ended before, as revision 1
    assert (session["count"], session["duration_ms"], session["revision"]) == (4, 60 * SECOND, 2)
    assert (rig.open(), rig.total(), rig.total("events")) == (0, 1, 4)


def test_a48_1_a_pause_longer_than_the_gap_parts_two_sessions() -> None:
    rig = Rig()
    rig.at("10:00", "10:20", "11:00")
    assert rig.held() == [(0, 20, 2), (60, 0, 1)]
    rig.time("13:00")
    assert spans(rig) == [(0, 20, 2), (60, 0, 1)]
    assert rig.open() == 0


def test_a48_2_a_late_event_between_two_closed_sessions_makes_them_one() -> None:
    rig = Rig()
    rig.at("10:00", "10:40")
    rig.time("11:30")
    first, second = rig.closed()
    assert rig.total() == 2
    assert rig.total("duration_ms") == 0
    rig.at("10:20")
    rig.driver.advance(1_000)
    merged = rig.closed()[2:]
    assert len(merged) == 1
    assert merged[0]["id"] == first["id"]
    assert merged[0]["supersedes"] == [second["id"]]
    assert (merged[0]["revision"], merged[0]["count"]) == (2, 3)
    assert merged[0]["duration_ms"] == 40 * MINUTE
    assert (rig.total(), rig.total("events")) == (1, 3)
    assert rig.total("duration_ms") == 40 * MINUTE
    assert rig.open() == 0


def test_a48_3_exactly_the_gap_apart_is_one_session_a_millisecond_more_is_two() -> None:
    rig = Rig()
    start = at("10:00")
    for user, apart in (("same", 30 * MINUTE), ("apart", 30 * MINUTE + 1)):
        early, late = start, start + apart
        for order, times in {"in order": (early, late), "late": (late, early)}.items():
            for time in times:
                rig.feed([event(time, f"{user} {order}")])
            rig.feed([event(time, f"{user} {order}, one batch") for time in times])
    for how in ("in order", "late", "in order, one batch", "late, one batch"):
        assert len(rig.row(f"same {how}")) == 1
        assert len(rig.row(f"apart {how}")) == 2


def test_a48_4_an_event_23_h_late_merges_and_one_25_h_late_goes_to_the_late_topic() -> None:
    rig = Rig()
    rig.at("10:00")
    rig.time("33:10")  # 23 h 10 min later
    assert [each["count"] for each in rig.closed()] == [1]
    rig.at("10:10")
    assert [(each["count"], each["revision"]) for each in rig.closed()] == [(1, 1), (2, 2)]
    assert rig.driver.topics[LATE_EVENTS] == []
    rig.time("35:10")  # 25 h after 10:10
    late = event(at("10:10"))
    rig.feed([late])
    [record] = rig.driver.topics[LATE_EVENTS]
    assert record.value == late
    assert dict(record.headers)["table"] == b"sessions_users"
    assert len(rig.closed()) == 2
    counts = rig.driver.tasks[TaskId(LOG_EVENTS, 0)].committed_counts
    assert (counts.applied, counts.late) == (4, 1)


def test_a48_4_an_event_late_for_its_window_still_joins_its_session() -> None:
    rig = Rig(windows=(minute_spec(),))
    rig.at("10:00")
    rig.time("33:00")
    late = event(at("10:10"), endpoint="/a")
    rig.feed([late])
    assert rig.held() == [(0, 10, 2)]
    assert [each.value for each in rig.driver.topics[LATE_EVENTS]] == [late]
    counts = rig.driver.tasks[TaskId(LOG_EVENTS, 0)].committed_counts
    assert (counts.applied, counts.late) == (2, 1)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)], ids=str)
def test_a48_5_a_purchase_sent_twice_is_one_conversion(order: tuple[int, ...]) -> None:
    rig = Rig()
    events = [
        event(at("10:00"), endpoint="/view/1"),
        event(at("10:01"), endpoint="/cart"),
        event(at("10:02"), endpoint="/purchase", trace_id="p"),
        event(at("10:02"), endpoint="/purchase", trace_id="p"),
    ]
    for number in order:
        rig.feed([events[number]])
    rig.time("11:00")
    [session] = rig.standing().values()
    assert session["converted"]
    assert session["steps"] == ["view", "cart", "purchase"]
    [row] = [row for key, row in rig.stats().items() if len(key) == 16]
    assert row.reached == (1, 1, 1)


def test_a_purchase_before_the_cart_is_no_conversion() -> None:
    rig = Rig()
    for minute, endpoint in enumerate(("/view", "/purchase", "/cart")):
        rig.feed([event(at("10:00") + minute * MINUTE, endpoint=endpoint)])
    rig.time("11:00")
    [session] = rig.closed()
    assert not session["converted"]
    assert session["steps"] == ["view", "cart"]


def test_a_late_view_turns_a_closed_session_into_a_conversion_and_the_sums_follow() -> None:
    rig = Rig()
    rig.feed([event(at("10:10"), endpoint="/cart"), event(at("10:12"), endpoint="/purchase")])
    rig.time("11:00")
    assert [row.reached for key, row in rig.stats().items() if len(key) == 16] == [()]
    rig.feed([event(at("10:05"), endpoint="/view")])
    before, after = rig.closed()
    assert (before["converted"], after["converted"]) == (False, True)
    assert after["supersedes"] == [before["id"]]
    assert after["revision"] == 2
    [row] = [row for key, row in rig.stats().items() if len(key) == 16]
    assert (row.sessions, row.events, row.pages, row.reached) == (1, 3, 3, (1, 1, 1))


@pytest.mark.slow
def test_a48_6_a_hundred_thousand_idle_users_are_closed_and_their_rows_purged() -> None:
    total = 100_000
    rig = Rig(partitions=2, now_ms=TEN + MINUTE, rows_per_tick=100_000, fired_max=20_000)
    for first in range(0, total, 10_000):
        batch = [event(TEN, f"user-{n}") for n in range(first, first + 10_000)]
        rig.feed(batch, partition=first // 10_000 % 2)
    assert rig.open() == total
    rig.silence(40 * MINUTE)
    assert rig.open() == 0
    assert rig.total() == total
    assert len(rig.driver.topics["sessions-closed"]) == total
    rig.silence(2 * DAY + 6 * HOUR, step_ms=6 * HOUR)
    assert rig.driver.rows(SESSION_PARTIALS, "sessions_users") == {}
    assert rig.driver.rows(SESSION_PARTIALS, TIMERS_TABLE) == {}
    assert rig.total() == total


def test_a_session_is_open_until_the_watermark_is_more_than_the_gap_beyond_it() -> None:
    rig = Rig()
    rig.at("10:00")
    rig.feed([event(at("10:30"), None)])
    assert (rig.closed(), rig.open()) == ([], 1)
    rig.feed([event(at("10:30") + 1, None)])
    assert (len(rig.closed()), rig.open()) == (1, 0)


def test_a_session_that_goes_on_is_closed_once_at_its_end() -> None:
    rig = Rig()
    for minute in range(0, 300, 20):
        rig.feed([event(TEN + minute * MINUTE)])
    assert rig.closed() == []
    rig.time("17:00")
    assert spans(rig) == [(0, 280, 15)]
    assert rig.driver.rows(SESSION_PARTIALS, TIMERS_TABLE) == {}


def test_the_slowest_partition_holds_sessions_open_and_an_idle_one_does_not() -> None:
    rig = Rig(partitions=2)
    rig.at("10:00", partition=0)
    rig.at("10:00", user="other", partition=1)
    rig.feed([event(at("12:00"), None)], 0)
    assert rig.closed() == []
    rig.feed([event(at("10:31"), None)], 1)
    assert len(rig.closed()) == 2


def test_a_backfill_does_not_close_live_sessions_nor_they_its_own() -> None:
    rig = Rig()
    rig.at("10:00")
    rig.feed([event(TEN - 9 * DAY, "old")], lane="file-1")
    assert rig.closed() == []
    rig.time("12:00")
    assert [each["user"] for each in rig.closed()] == ["u"]
    rig.feed([event(TEN - 9 * DAY + 2 * HOUR, None)], lane="file-1")
    assert [each["user"] for each in rig.closed()] == ["u", "old"]


def test_a_backfill_that_ends_closes_its_sessions() -> None:
    rig = Rig()
    rig.feed([event(TEN - 9 * DAY + n * 20 * MINUTE, "old") for n in range(4)], lane="file-1")
    assert rig.closed() == []
    rig.silence(31_000, 1_000)
    assert [(each["user"], each["count"]) for each in rig.closed()] == [("old", 4)]


def test_silence_closes_a_live_session_only_after_the_gap() -> None:
    rig = Rig(now_ms=TEN)
    rig.at("10:00")
    rig.silence(29 * MINUTE, MINUTE)
    assert (rig.closed(), rig.open()) == ([], 1)
    rig.silence(2 * MINUTE, MINUTE)
    assert (len(rig.closed()), rig.open()) == (1, 0)


def test_a_user_who_comes_back_after_silence_but_within_the_gap_goes_on() -> None:
    rig = Rig(now_ms=TEN)
    rig.at("10:00")
    rig.silence(20 * MINUTE, MINUTE)
    rig.at("10:20")
    rig.silence(29 * MINUTE, MINUTE)
    assert rig.closed() == []
    rig.silence(2 * MINUTE, MINUTE)
    assert [(each["count"], each["revision"]) for each in rig.closed()] == [(2, 1)]


def test_a_session_with_more_sessions_than_a_row_takes_closes_the_oldest_at_once() -> None:
    rig = Rig()
    times = [TEN - 300 * HOUR + n * HOUR for n in range(300)]
    rig.feed([event(time) for time in times])
    assert len(rig.row()) == 256
    rig.time("12:00")
    found = sorted((s["start"], s["end"], s["count"]) for s in rig.standing().values())
    assert found == plain_sessions(times, 30 * MINUTE)
    assert rig.open() == 0


def test_events_left_out_by_the_filter_are_in_no_session() -> None:
    rig = Rig(specs=(users(where=match_of({"type": ["user_action"]})),))
    rig.feed([event(at("10:00")), event(at("10:01"), type="user_action")])
    assert rig.held() == [(1, 0, 1)]


def test_a_gap_of_its_own_for_a_type_is_a_kind_of_its_own() -> None:
    short = users(name="actions", gap_ms=MINUTE, where=match_of({"type": ["user_action"]}))
    rig = Rig(specs=(users(), short))
    rig.feed([event(at("10:00"), type="user_action"), event(at("10:02"), type="user_action")])
    assert (rig.held(), rig.held(spec="actions")) == ([(0, 2, 2)], [(0, 0, 1), (2, 0, 1)])
