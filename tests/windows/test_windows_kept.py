"""What windows say besides finals, and how long their state stays: updates, trends, retention."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.topics import LOG_EVENTS, WINDOW_PARTIALS, WINDOWS_UPDATES
from tables.timers import TIMERS_TABLE
from tables.windows.answer import window_answer
from tables.windows.compose import rolled
from tables.windows.finals import FINALS_TABLE, decode_record
from tables.windows.keys import PERIOD_MS, parse_row_key
from tables.windows.periods import PERIODS_TABLE
from tables.windows.spec import WindowSpec
from tests.windows.closing import Closing, Event, counted, said
from tests.windows.driver import HOUR, MINUTE, TEN, WindowsDriver, at, event, minute_spec

SAYING = replace(minute_spec(name="saying", emit="updates"), codes=True)
SAYING_HOPS = replace(
    SAYING, kind="hopping", size_ms=5 * MINUTE, sizes_ms=(5 * MINUTE,), advance_ms=MINUTE
)
TREND = minute_spec(
    name="trend",
    kind="sliding",
    key="service",
    size_ms=15 * MINUTE,
    sizes_ms=(MINUTE, 5 * MINUTE, 15 * MINUTE),
    advance_ms=10_000,
    global_row=True,
)


def hit(timestamp: int, endpoint: str = "/a") -> Event:
    return {"timestamp": timestamp, "endpoint": endpoint, "latency_ms": 5.0, "status": 200}


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 8 * MINUTE), st.sampled_from(["/a", "/b"])),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 7),
    st.sampled_from([SAYING, SAYING_HOPS]),
)
def test_the_last_update_of_each_window_says_all_there_is(
    arrivals: list[tuple[int, str]], size: int, spec: WindowSpec
):
    windows = Closing(spec)
    events = [hit(TEN + moment, endpoint) for moment, endpoint in sorted(arrivals)]
    for first in range(0, len(events), size):
        windows.feed(events[first : first + size])
    updates = [decode_record(output.value or b"") for output in windows.outputs(WINDOWS_UPDATES)]
    last = {(record.name, record.key, record.start): record for record in updates}
    assert said(last) == counted([spec], events)
    assert all(record.id is None for record in updates)


def test_an_update_tells_the_revision_that_was_written_before_it():
    windows = Closing(SAYING)
    windows.feed([hit(TEN)])
    windows.finish()
    windows.feed([hit(TEN)], 1, lane="file-1")
    updates = [decode_record(output.value or b"") for output in windows.outputs(WINDOWS_UPDATES)]
    assert [(record.revision, record.count) for record in updates] == [(0, 1), (1, 2)]


def test_windows_that_are_final_only_say_no_updates():
    windows = Closing(minute_spec())
    windows.feed([hit(TEN)])
    assert windows.outputs(WINDOWS_UPDATES) == []


def trend_windows(driver: WindowsDriver, size_ms: int) -> list[tuple[int, int]]:
    """(start, count) of the trend's windows of a size."""
    panes = driver.rows("shop", "trend")
    return [(start, stats.count) for start, stats in rolled(panes, size_ms, 10_000)]


@pytest.mark.parametrize("clock", ["10:00:00", "10:00:03.250", "10:00:09.999"])
def test_a47_2_an_event_is_in_six_consecutive_minutes_the_first_at_the_next_hop(clock: str):
    driver = WindowsDriver(TREND)
    driver.feed([event(at(clock))])
    ends = [start + MINUTE for start, count in trend_windows(driver, MINUTE) if count == 1]
    assert ends == [at("10:00:10") + hop * 10_000 for hop in range(6)]


def test_a47_3_open_windows_are_6_30_and_90_of_one_pane():
    driver = WindowsDriver(TREND)
    driver.feed([event(TEN), event(TEN + 5_000)])
    assert len(driver.rows("shop", "trend")) == 1
    assert [len(trend_windows(driver, size)) for size in TREND.sizes_ms] == [6, 30, 90]


def test_a47_1_a_minute_of_10_20_30_is_said_alike_by_all_sizes():
    driver = WindowsDriver(TREND)
    driver.feed([event(TEN + n, latency_ms=ms) for n, ms in enumerate((10.0, 20.0, 30.0))])
    for size_ms in TREND.sizes_ms:
        spec = replace(TREND, size_ms=size_ms)
        last = list(rolled(driver.rows("shop", "trend"), size_ms, 10_000))[-1:]
        [window] = window_answer(spec, last, driver.marks())
        assert (window.count, window.avg) == (3, 20.0)
        assert window.stddev == pytest.approx(8.165, abs=0.001)


def test_a46_8_a_replay_of_last_week_gives_last_weeks_windows():
    week = 7 * 24 * HOUR
    events = [hit(TEN - week + n * 7_000, f"/{n % 3}") for n in range(200)]
    hopping = replace(SAYING_HOPS, emit="final")
    then, now = Closing(hopping), Closing(hopping)
    now.driver.clock.advance(week)
    now.clock(TEN + HOUR)
    for windows, lane in ((then, None), (now, "replay")):
        for first in range(0, 200, 13):
            windows.feed(events[first : first + 13], 1, lane)
        for _ in range(35):
            windows.driver.advance(1_000)
    assert said(then.latest()) == counted([hopping], events)
    assert now.latest() == then.latest()
    assert {record.revision for record in now.finals()} == {1}


def test_a44_10_rows_of_every_table_stop_growing_after_the_retention():
    spec = replace(minute_spec(name="short"), retention_ms=HOUR)
    hops = replace(SAYING_HOPS, name="hops", emit="final", retention_ms=HOUR)
    windows = Closing(spec, hops)
    tables = ("short", "hops", FINALS_TABLE, PERIODS_TABLE)
    steps_a_period = PERIOD_MS // (10 * MINUTE)
    sizes: list[list[int]] = []
    for step in range(6 * steps_a_period):
        now_ms = TEN + step * 10 * MINUTE
        windows.feed([hit(now_ms, f"/{n}") for n in range(3)])
        windows.clock(now_ms + 9 * MINUTE)
        for _ in range(9):
            windows.driver.advance(MINUTE)
        sizes.append([len(windows.driver.rows(WINDOW_PARTIALS, each)) for each in tables])
        assert windows.driver.rows(WINDOW_PARTIALS, TIMERS_TABLE) == {}
    last, before = sizes[-steps_a_period:], sizes[-2 * steps_a_period : -steps_a_period]
    assert last == before
    assert 0 < max(row[0] for row in last) <= 3 * (steps_a_period + 6 + 1 + 12)
    oldest = min(parse_row_key(raw)[1] for raw in windows.driver.rows(WINDOW_PARTIALS, "short"))
    assert oldest >= windows.driver.clock.now_ms() - 2 * HOUR - HOUR - PERIOD_MS - HOUR


def test_every_record_of_the_topic_is_accounted_for():
    windows = Closing(SAYING, TREND)
    windows.feed([hit(TEN), hit(TEN + HOUR), hit(TEN)])
    task = next(t for t in windows.driver.tasks.values() if t.id.topic == LOG_EVENTS)
    assert (task.counts.applied, task.counts.late) == (2, 1)
