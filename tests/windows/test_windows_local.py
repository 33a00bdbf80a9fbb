"""The local half: what every kind of window makes of a batch, against plain counting."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.windows.repartition import decode_partial, encode_partial
from app.models.event import LogEvent
from tables.histogram import bucket
from tables.sketch import sketch
from tables.windows.spec import WindowSpec
from tables.windows.stats import VALUE_MAX_MS, WindowStats
from tables.windows.where import Condition
from tests.windows.driver import MINUTE, TEN, WindowsDriver, at, event, minute_spec

HOPPING = minute_spec(
    name="hopping", kind="hopping", size_ms=5 * MINUTE, advance_ms=MINUTE, codes=True
)
TREND = minute_spec(
    name="trend",
    kind="sliding",
    key="service",
    size_ms=15 * MINUTE,
    sizes_ms=(MINUTE, 15 * MINUTE),
    advance_ms=10_000,
    global_row=True,
)
USERS = WindowSpec(
    name="users",
    topic="log-events",
    kind="tumbling",
    size_ms=5 * MINUTE,
    grace_ms=30_000,
    key="country",
    distinct="user_id",
)
SEVERE = minute_spec(
    name="severe",
    where=(Condition("status", (), 400, 599), Condition("type", ("http_request", "log"))),
)
METRIC = minute_spec(name="metric", key="metric_name", value="value", errors=None)
ALL = (minute_spec(), HOPPING, TREND, USERS, SEVERE, METRIC)

MOMENT = st.integers(0, 29_999)
fields = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from([None, "/a", "/b"]),
        "service": st.sampled_from(["shop", "*", "**"]),
        "status": st.sampled_from([None, 200, 404, 503]),
        "latency_ms": st.one_of(st.none(), st.floats(0, 1e9)),
        "value": st.one_of(st.none(), st.floats(-1e300, 1e300), st.integers(-5, 5)),
        "metric_name": st.sampled_from([None, "cpu"]),
        "country": st.sampled_from([None, "NL"]),
        "user_id": st.sampled_from([None, "u1", "u2", "u3"]),
        "type": st.sampled_from(["http_request", "metric"]),
    }
)


def reference(
    specs: tuple[WindowSpec, ...], fed: list[LogEvent]
) -> dict[tuple[str, str, int], WindowStats]:
    """Rows of events that are all in time, one condition and one field after the other."""
    groups: dict[tuple[WindowSpec, str, int], list[LogEvent]] = defaultdict(list)
    for spec in specs:
        for each in fed:
            key = getattr(each, spec.key)
            if key is None or not all(_holds(condition, each) for condition in spec.where):
                continue
            start = each.timestamp - each.timestamp % spec.advance_ms
            if spec.global_row:
                groups[spec, "*", start].append(each)
                key = {"*": "**", "**": "***"}.get(key, key)
            groups[spec, key, start].append(each)
    return {
        (spec.name, key, start): _row(spec, events) for (spec, key, start), events in groups.items()
    }


def _holds(condition: Condition, each: LogEvent) -> bool:
    value = getattr(each, condition.field)
    if condition.any_of:
        return value in condition.any_of
    return value is not None and condition.low <= value <= condition.high


def _thousandths(value: float) -> int:
    return int((min(max(value, -VALUE_MAX_MS), VALUE_MAX_MS) * 1000 + 0.5) // 1)


def _row(spec: WindowSpec, events: list[LogEvent]) -> WindowStats:
    given_ms = [getattr(each, spec.value) for each in events] if spec.value else []
    values = [_thousandths(v) for v in given_ms if v is not None]
    statuses = [each.status for each in events if each.status is not None]
    return WindowStats(
        count=len(events),
        errors=sum(s >= 500 for s in statuses) if spec.errors else 0,
        n=len(values),
        sum=sum(values),
        min=min(values, default=None),
        max=max(values, default=None),
        hist={b: [bucket(v) for v in values].count(b) for b in map(bucket, values)},
        sumsq=sum(v * v for v in values),
        codes={s: statuses.count(s) for s in statuses} if spec.codes else {},
        distinct=sketch({e.user_id for e in events if e.user_id}) if spec.distinct else b"",
        lanes=("0/",),
    )


@given(st.lists(st.tuples(MOMENT, fields), min_size=1, max_size=40))
def test_every_window_counts_what_plain_counting_counts(arrivals):
    values = [event(TEN + moment, **given_fields) for moment, given_fields in arrivals]
    driver = WindowsDriver(*ALL)
    effects = driver.feed(values)
    assert effects.applied == len(values)
    found = {
        key: untimed(stats)
        for partials in effects.gathered.partials()
        for key, stats in partials.values.items()
    }
    events = [
        LogEvent(event_id="x" * 36, timestamp=TEN + moment, **{"source": "test"} | given_fields)
        for moment, given_fields in arrivals
    ]
    assert found == reference(ALL, events)
    for key, stats in found.items():
        assert decode_partial(encode_partial(key, stats)) == (key, stats)


def untimed(stats: WindowStats) -> WindowStats:
    """Without the ingest time, which plain counting does not know."""
    return msgspec.structs.replace(stats, updated_ms=0)


def test_many_events_of_one_key_count_as_few_do():
    latencies = [float(i % 50) for i in range(1_000)]
    values = [
        event(TEN + i, latency_ms=ms, status=200 + i % 2, user_id=f"u{i % 7}")
        for i, ms in enumerate(latencies)
    ]
    at_once, in_pieces = WindowsDriver(*ALL), WindowsDriver(*ALL)
    at_once.feed(values)
    for first in range(0, 1_000, 3):
        in_pieces.feed(values[first : first + 3])
    assert at_once.all_rows("hopping") == in_pieces.all_rows("hopping")
    assert at_once.all_rows("trend") == in_pieces.all_rows("trend")


def test_an_event_late_for_its_first_hopping_window_counts_in_none_though_later_ones_are_open():
    driver = WindowsDriver(HOPPING)
    driver.feed([event(at("10:05:00"), "/clock"), event(at("10:05:29.999"), "/clock")])
    assert not driver.feed([event(at("10:04:00"))]).late
    driver.feed([event(at("10:05:30"), "/clock")])
    [late] = driver.feed([event(at("10:04:59"))]).late
    assert (late.table, late.lateness_ms) == ("hopping", 30_000)
    row = dict(driver.rows("/a"))[at("10:04:00")]
    assert (row.count, row.late) == (1, 1)
    # The windows from 10:01 on hold 10:04:59 too, and close a minute later or more.
    driver.feed([event(at("10:05:00"))])
    assert {start: row.count for start, row in driver.rows("/a")} == {
        at("10:04:00"): 1,
        at("10:05:00"): 1,
    }


@pytest.mark.parametrize(("clock", "counted"), [("10:00:39", True), ("10:00:41", False)])
def test_a47_8_a_trend_counts_an_event_late_by_less_than_the_grace(clock: str, counted: bool):
    driver = WindowsDriver(TREND)
    driver.feed([event(at(clock), "/clock", service="clock")])
    effects = driver.feed([event(at("10:00:09.999"))])
    assert [late.table for late in effects.late] == ([] if counted else ["trend"])
    assert dict(driver.rows("shop"))[TEN].count == int(counted)
    everything = dict(driver.rows("*"))[TEN]
    assert (everything.count, everything.late) == (int(counted), int(not counted))


def test_a_record_late_for_several_windows_is_reported_once_in_order_of_offset():
    driver = WindowsDriver(minute_spec(), TREND)
    driver.feed([event(at("10:01:29"))])
    effects = driver.feed([event(at("10:00:00")), event(at("10:00:59")), event(at("09:59:00"))])
    assert [(late.index, late.table) for late in effects.late] == [
        (0, "trend"),
        (2, "requests_per_endpoint"),
    ]
    assert effects.applied == 1
    assert driver.windows("/a")[0]["late"] == 1


def test_windows_that_group_alike_keep_rows_of_their_own():
    twin = replace(minute_spec(), name="twin", value=None, errors=None)
    driver = WindowsDriver(minute_spec(), twin)
    driver.feed([event(TEN, latency_ms=2.0, status=500)])
    assert driver.windows("/a")[0]["sum"] == 2.0
    assert (driver.windows("/a", "twin")[0]["count"], driver.windows("/a", "twin")[0]["sum"]) == (
        1,
        None,
    )
