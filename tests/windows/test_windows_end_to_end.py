"""Events through both halves of a window, without a broker."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.answer import counts_since
from tables.windows.keys import parse_row_key
from tests.windows.driver import (
    HOUR,
    MINUTE,
    NOW,
    TEN,
    WindowsDriver,
    at,
    batch_of,
    event,
    interleaved,
    minute_spec,
)


def test_a44_1_counts_of_three_endpoints_over_two_minutes_are_exact():
    driver = WindowsDriver()
    wanted = {("/a", 0): 7, ("/b", 0): 3, ("/c", 0): 1, ("/a", 1): 2, ("/b", 1): 5, ("/c", 1): 4}
    for minute in (0, 1):
        driver.feed(
            [
                event(TEN + minute * MINUTE + 1_000 * i, endpoint)
                for (endpoint, of), count in wanted.items()
                if of == minute
                for i in range(count)
            ],
            partition=minute,
        )
    for (endpoint, minute), count in wanted.items():
        assert dict(driver.rows(endpoint))[TEN + minute * MINUTE].count == count

    rows = [(*parse_row_key(raw), stats) for raw, stats in driver.all_rows().items()]
    assert counts_since(rows, TEN - 3 * MINUTE) == {"/a": 9, "/b": 8, "/c": 5}
    assert counts_since(rows, TEN + MINUTE) == {"/a": 2, "/b": 5, "/c": 4}


def test_a44_3_percentiles_of_1_to_10000_ms():
    driver = WindowsDriver()
    values = [event(TEN + ms, latency_ms=float(ms)) for ms in range(1, 10_001)]
    for first in range(0, len(values), 997):
        driver.feed(values[first : first + 997])
    [window] = driver.windows("/a")
    assert window["p50"] == pytest.approx(5_000, rel=0.02)
    assert window["p95"] == pytest.approx(9_500, rel=0.01)
    assert window["p99"] == pytest.approx(9_900, rel=0.01)
    assert (window["count"], window["min"], window["max"]) == (10_000, 1.0, 10_000.0)
    assert (window["sum"], window["avg"]) == (50_005_000.0, 5_000.5)


def test_a44_5_an_event_within_grace_counts_and_one_after_it_is_late():
    driver = WindowsDriver()
    driver.feed([event(at("10:00:10")), event(at("10:01:29"), "/clock")])
    assert not driver.feed([event(at("10:00:59"))]).late
    assert driver.windows("/a")[0]["count"] == 2

    driver.feed([event(at("10:01:31"), "/clock")])
    effects = driver.feed([event(at("10:00:59"), latency_ms=99.0, status=500)])
    [late] = effects.late
    assert (late.index, late.table, late.lateness_ms) == (0, "requests_per_endpoint", 31_000)
    assert effects.applied == 0
    [window] = driver.windows("/a")
    assert (window["count"], window["errors"], window["max"]) == (2, 0, 5.0)
    assert window["late"] == 1


def test_an_event_is_late_from_end_plus_grace_on_exactly():
    driver = WindowsDriver()
    driver.feed([event(at("10:01:29.999"), "/clock")])
    assert not driver.feed([event(at("10:00:00"))]).late
    driver.feed([event(at("10:01:30"), "/clock")])
    assert driver.feed([event(at("10:00:00"))]).late


def test_a46_1_statistics_of_the_values_1_to_10():
    driver = WindowsDriver()
    driver.feed([event(TEN + i, latency_ms=float(i)) for i in range(1, 11)])
    [window] = driver.windows("/a")
    assert (window["count"], window["sum"], window["avg"]) == (10, 55.0, 5.5)
    assert (window["min"], window["max"]) == (1.0, 10.0)


@pytest.mark.parametrize(("grace_ms", "counted"), [(5_000, True), (0, False)])
def test_a46_2_grace_decides_whether_105959_counts_at_110001(grace_ms: int, counted: bool):
    driver = WindowsDriver(minute_spec(size_ms=HOUR, grace_ms=grace_ms))
    driver.feed([event(at("11:00:01"), "/clock")])
    effects = driver.feed([event(at("10:59:59"))])
    assert (len(effects.late), effects.applied) == ((0, 1) if counted else (1, 0))
    assert [(w["start"], w["count"], w["late"]) for w in driver.windows("/a")] == [
        (TEN, 1, 0) if counted else (TEN, 0, 1)
    ]


def test_a46_3_an_event_at_the_boundary_is_in_the_next_window_only():
    driver = WindowsDriver(minute_spec(size_ms=HOUR))
    driver.feed([event(at("11:00:00.000"))])
    assert [(w["start"], w["end"], w["count"]) for w in driver.windows("/a")] == [
        (at("11:00:00"), at("12:00:00"), 1)
    ]


def test_errors_are_statuses_from_500_on():
    driver = WindowsDriver()
    driver.feed([event(TEN, status=status) for status in (200, 404, 499, 500, 503, None)])
    assert [(w["count"], w["errors"]) for w in driver.windows("/a")] == [(6, 2)]


def test_events_without_a_value_count_but_have_no_statistics():
    driver = WindowsDriver()
    driver.feed([event(TEN, latency_ms=None)])
    [window] = driver.windows("/a")
    assert window["count"] == 1
    statistics = ("sum", "avg", "min", "max", "p50", "p95", "p99")
    assert [window[name] for name in statistics] == [None] * 7  # type: ignore[literal-required]


def test_an_event_without_the_key_is_applied_but_in_no_window():
    driver = WindowsDriver()
    effects = driver.feed([event(TEN, None, type="metric")])
    assert (effects.applied, effects.late, driver.all_rows()) == (1, [], {})
    assert driver.lanes().watermark("") == TEN


def test_a_record_late_for_two_windows_is_counted_once_and_in_both_rows():
    driver = WindowsDriver(minute_spec(), minute_spec(name="per_service", key="service"))
    driver.feed([event(at("10:05:00"))])
    effects = driver.feed([event(at("10:00:00"))])
    assert (effects.applied, len(effects.late)) == (0, 1)
    assert driver.windows("/a")[0]["late"] == 1
    assert driver.windows("shop", "per_service")[0]["late"] == 1


events_with_delay = st.lists(
    st.tuples(
        st.integers(0, 5 * MINUTE),  # event time
        st.integers(0, 29_999),  # delay, below the grace
        st.sampled_from(["/a", "/b", "/ü"]),
        st.one_of(st.none(), st.floats(0, 60_000)),
        st.sampled_from([None, 200, 404, 500]),
        st.integers(0, 2),  # partition
    ),
    max_size=60,
)


@given(events_with_delay, st.integers(1, 20))
def test_a46_6_arrival_order_within_grace_is_irrelevant(
    arrivals: list[tuple[int, int, str, float | None, int | None, int]], batch_size: int
):
    def run(order: list[tuple[int, int, str, float | None, int | None, int]], size: int):
        driver = WindowsDriver()
        for first in range(0, len(order), size):
            by_partition = defaultdict(list)
            for moment, _, endpoint, latency, status, partition in order[first : first + size]:
                value = event(TEN + moment, endpoint, latency_ms=latency, status=status)
                by_partition[partition].append(value)
            for partition, values in by_partition.items():
                assert not driver.feed(values, partition=partition).late
        return driver.all_rows()

    in_order = run(sorted(arrivals, key=lambda a: a[0]), 60)
    assert run(sorted(arrivals, key=lambda a: a[0] + a[1]), batch_size) == in_order
    assert sum(row.count for row in in_order.values()) == len(arrivals)


@given(
    st.lists(
        st.tuples(st.integers(0, 10 * MINUTE), st.sampled_from([None, "file-1", "file-2"])),
        max_size=60,
    )
)
def test_every_event_is_counted_or_late_and_no_watermark_goes_back(
    arrivals: list[tuple[int, str | None]],
):
    driver = WindowsDriver()
    late = 0
    before: dict[str, int] = {}
    for moment, lane in arrivals:
        late += len(driver.feed([event(TEN + moment)], lane=lane).late)
        after = {name: known.watermark_ms for name, known in driver.lanes()}
        assert all(after[name] >= watermark for name, watermark in before.items())
        before = after
    rows = driver.all_rows().values()
    assert sum(row.count for row in rows) + late == len(arrivals)
    assert sum(row.late for row in rows) == late


@given(
    st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.integers(0, 2)), min_size=1, max_size=60),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_how_records_fall_into_batches_is_irrelevant(
    arrivals: list[tuple[int, int]], sizes: list[int]
):
    values = [event(TEN + moment, f"/{endpoint}") for moment, endpoint in arrivals]
    at_once, in_batches = WindowsDriver(), WindowsDriver()
    at_once.feed(values)
    for size in itertools.cycle(sizes):
        if not values:
            break
        in_batches.feed(values[:size])
        values = values[size:]
    assert in_batches.all_rows() == at_once.all_rows()
    assert in_batches.marks() == at_once.marks()


def test_an_old_file_and_live_traffic_do_not_make_each_other_late():
    driver = WindowsDriver()
    old = TEN - 30 * 24 * HOUR
    for second in range(300):
        live = driver.feed([event(TEN + 1_000 * second)])
        shipped = driver.feed([event(old + 1_000 * second)], lane="file-1")
        assert not live.late
        assert not shipped.late
    assert [w["count"] for w in driver.windows("/a")] == [60] * 10
    # Each is closed by its own lane: five minutes of either, the last still open.
    states = [w["state"] for w in driver.windows("/a")]
    assert states == ["final", "final", "final", "final", "open"] * 2


def test_lanes_mixed_in_one_batch_are_kept_apart():
    driver = WindowsDriver()
    live, shipped = (
        batch_of([event(TEN)] * 2, NOW),
        batch_of([event(TEN - HOUR)] * 2, NOW, lane="f"),
    )
    assert not driver.run(interleaved(live, shipped)).late
    assert [(w["start"], w["count"]) for w in driver.windows("/a")] == [(TEN - HOUR, 2), (TEN, 2)]
    assert dict(driver.rows("/a"))[TEN - HOUR].lanes == ("0/f",)
    assert {k: m.watermark_ms for k, m in driver.marks().items()} == {
        "0/": TEN,
        "0/f": TEN - HOUR,
    }


def test_a_window_is_final_once_every_lane_that_fed_it_is_idle():
    driver = WindowsDriver()
    driver.feed([event(TEN)])
    driver.feed([event(TEN)], partition=1, lane="file-1")
    assert driver.windows("/a")[0]["state"] == "open"
    driver.idle(29_999)
    assert driver.windows("/a")[0]["state"] == "open"
    driver.idle(1)
    assert driver.windows("/a")[0]["state"] == "final"
    assert driver.marks()["1/file-1"].idle
    assert driver.marks()["0/"].idle


def test_a_backlog_older_than_the_idle_timeout_does_not_retire_its_lane():
    driver = WindowsDriver()
    driver.feed([event(TEN)], lane="file-1", ingest=driver.now_ms - HOUR)
    driver.idle(1_000)
    assert not driver.marks()["0/file-1"].idle


def test_a_window_waits_for_the_slowest_lane_that_fed_it():
    driver = WindowsDriver()
    driver.feed([event(TEN)], partition=0)
    driver.feed([event(TEN)], partition=1)
    driver.feed([event(at("10:05:00"), "/clock")], partition=0)
    assert driver.windows("/a")[0]["state"] == "open"
    driver.feed([event(at("10:01:00"), "/clock")], partition=1)
    assert driver.windows("/a")[0]["state"] == "closed"
    driver.feed([event(at("10:01:30"), "/clock")], partition=1)
    assert driver.windows("/a")[0]["state"] == "final"
