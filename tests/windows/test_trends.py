"""Trends composed from panes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.histogram import bucket
from tables.windows.stats import WindowStats, merge_stats
from tables.windows.trends import composed, direction, hop_before, rolling, size_label, trend_window

HOP = 10_000
MINUTE = 60_000


def pane(*latencies_ms: float, errors: int = 0) -> WindowStats:
    micros = [round(each * 1000) for each in latencies_ms]
    stats = WindowStats()
    for value in micros:
        one = WindowStats(
            count=1, n=1, sum=value, min=value, max=value, hist={bucket(value): 1},
            sumsq=value * value,
        )  # fmt: skip
        stats = merge_stats(stats, one)
    return merge_stats(stats, WindowStats(errors=errors))


def test_a47_1_ten_twenty_thirty_give_their_mean_and_deviation_in_every_size() -> None:
    panes = [(0, pane(10)), (HOP, pane(20)), (3 * HOP, pane(30))]
    for size in (MINUTE, 5 * MINUTE, 15 * MINUTE):
        window = trend_window(composed(panes, MINUTE, size), MINUTE, size, complete=True)
        assert (window.count, window.avgLatency, window.min, window.max) == (3, 20, 10, 30)
        assert window.stddev == pytest.approx(8.165, abs=5e-4)
        assert (window.from_ms, window.to_ms) == (MINUTE - size, MINUTE)


def test_a47_2_an_event_is_in_exactly_six_one_minute_windows_from_the_next_hop_on() -> None:
    at = 123_456
    panes = [(hop_before(at, HOP), pane(7))]
    ends = range(0, 400_000, HOP)
    holding = [end for end, stats in rolling(panes, ends, MINUTE) if stats.count]
    assert holding == [130_000 + hop * HOP for hop in range(6)]


def test_a_window_without_events_has_counts_and_no_latencies() -> None:
    window = trend_window(WindowStats(), MINUTE, MINUTE, complete=False)
    assert (window.count, window.ratePerSec, window.errorRate, window.p95) == (0, 0, None, None)


def test_the_trend_is_up_or_down_only_beyond_a_tenth() -> None:
    def of(short: int, long: int) -> str:
        minute = trend_window(WindowStats(count=short), MINUTE, MINUTE, complete=True)
        quarter = trend_window(WindowStats(count=long), MINUTE, 15 * MINUTE, complete=True)
        return direction({MINUTE: minute, 15 * MINUTE: quarter})

    assert [of(110, 1_500), of(111, 1_500), of(90, 1_500), of(89, 1_500)] == [
        "flat", "up", "flat", "down",
    ]  # fmt: skip
    assert of(0, 0) == "flat"


def test_sizes_have_short_labels() -> None:
    assert [size_label(ms) for ms in (60_000, 900_000, 90_000, 3_600_000, 86_400_000, 5)] == [
        "1m", "15m", "90s", "1h", "1d", "5ms",
    ]  # fmt: skip


@given(
    st.lists(st.integers(0, 40), max_size=20),
    st.integers(1, 12),
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
)
def test_rolling_gives_what_composing_each_window_gives(
    places: list[int], hops: int, ends: list[int]
) -> None:
    panes = [(place * HOP, pane(float(at))) for at, place in enumerate(sorted(places))]
    found = dict(rolling(panes, [end * HOP for end in sorted(ends)], hops * HOP))
    for end in ends:
        assert found[end * HOP] == composed(panes, end * HOP, hops * HOP)
