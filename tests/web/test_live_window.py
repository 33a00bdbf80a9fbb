"""The live core: second by second, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.stats import WindowStats, merge_stats
from tests.web.fakes import MINUTE, NOW, stats_of
from web.live import window as live_window
from web.live.sample import Sample, combine
from web.live.window import LIVE_MS, LiveWindow

SECOND = 1_000


def followed() -> LiveWindow:
    return LiveWindow(MINUTE, NOW)


def test_a_second_is_what_was_added_to_the_rows():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([10] * 5), NOW)
    assert live.sample(NOW + SECOND).count == 5
    live.apply(0, "/a", NOW, stats_of([10] * 5 + [200] * 3, errors=2), NOW + SECOND)
    second = live.sample(NOW + 2 * SECOND)
    assert (second.count, second.errors, second.elapsed_ms) == (3, 2, SECOND)
    assert combine([second]).p95_ms == pytest.approx(200, rel=0.01)
    third = live.sample(NOW + 3 * SECOND)
    assert (third.count, third.hist) == (0, {})
    assert combine([third]).p95_ms is None


def test_what_was_there_before_is_no_traffic_but_counts_in_sums():
    live = followed()
    live.seed(0, "/a", NOW, stats_of([10] * 100), NOW)
    live.apply(0, "/a", NOW, stats_of([10] * 101), NOW)
    sample = live.sample(NOW + SECOND)
    assert sample.count == 1
    assert sum(sample.hist.values()) == 1
    assert [(e.endpoint, e.count) for e in sample.endpoints] == [("/a", 101)]


def test_a_seed_never_takes_back_what_a_commit_brought():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([10] * 5), NOW)
    live.seed(0, "/a", NOW, stats_of([10] * 3), NOW)
    assert live.sample(NOW + SECOND).count == 5


def test_old_files_are_not_live():
    live = followed()
    live.apply(0, "/old", NOW - LIVE_MS - MINUTE, stats_of([1]), NOW)
    live.apply(0, "/ahead", NOW + LIVE_MS + MINUTE, stats_of([1]), NOW)
    sample = live.sample(NOW + SECOND)
    assert (sample.count, sample.endpoints) == (0, ())


def test_sums_are_over_the_windows_of_the_last_five_minutes():
    live = followed()
    for minutes_ago in range(9):
        live.seed(0, "/a", NOW - minutes_ago * MINUTE, stats_of([1] * 10, errors=1), NOW)
    (figures,) = live.sample(NOW + 30 * SECOND).endpoints
    assert (figures.count, figures.errors, figures.error_rate) == (50, 5, 0.1)


def test_an_endpoint_falls_silent_and_then_leaves():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([1] * 20), NOW)
    rates = [live.sample(NOW + n * SECOND).endpoints[0].rate for n in range(1, 14)]
    assert rates[0] == 20
    assert rates[9] == 2
    assert rates[10:] == [0, 0, 0]
    assert live.sample(NOW + 6 * MINUTE).endpoints == ()


def test_a_partition_that_left_is_forgotten():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([1]), NOW)
    live.apply(1, "/b", NOW, stats_of([1]), NOW)
    live.forget(0)
    assert [e.endpoint for e in live.sample(NOW + SECOND).endpoints] == ["/b"]


def test_a_removed_row_is_gone():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([1]), NOW)
    live.apply(0, "/a", NOW, None, NOW)
    live.apply(0, "/never", NOW, None, NOW)
    sample = live.sample(NOW + SECOND)
    assert (sample.count, sample.endpoints) == (0, ())


def test_the_busiest_twenty_come_first():
    live = followed()
    for n in range(50):
        live.apply(0, f"/{n}", NOW, stats_of([1] * (n + 1)), NOW)
    endpoints = combine([live.sample(NOW + SECOND)]).endpoints
    assert [e.endpoint for e in endpoints] == [f"/{n}" for n in range(49, 29, -1)]


def test_rows_are_bounded_and_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_window, "ROWS_MAX", 10)
    live = followed()
    for n in range(11):
        live.apply(0, f"/{n}", NOW, stats_of([1]), NOW)
    sample = live.sample(NOW + SECOND)
    assert (sample.count, sample.truncated) == (10, True)
    assert not live.sample(NOW + 2 * SECOND).truncated
    live.sample(NOW + LIVE_MS + 2 * MINUTE)
    live.apply(0, "/11", NOW + LIVE_MS + MINUTE, stats_of([1]), NOW + LIVE_MS + 2 * MINUTE)
    assert live.sample(NOW + LIVE_MS + 2 * MINUTE + SECOND).count == 1


def test_with_many_keys_counts_stay_exact_and_p95_is_that_of_some(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(live_window, "SKETCHED_ROWS_MAX", 5)
    live = followed()
    for n in range(20):
        live.apply(0, f"/{n}", NOW, stats_of([1, 1]), NOW)
    sample = live.sample(NOW + SECOND)
    assert (sample.count, sum(sample.hist.values())) == (40, 10)


def test_a_row_that_is_updated_long_after_its_end_counts_without_its_values():
    live = followed()
    live.apply(0, "/a", NOW, stats_of([1] * 4), NOW)
    live.sample(NOW + SECOND)
    live.sample(NOW + 3 * MINUTE)
    live.apply(0, "/a", NOW, stats_of([1] * 6), NOW + 3 * MINUTE)
    sample = live.sample(NOW + 3 * MINUTE + SECOND)
    assert (sample.count, sample.hist) == (2, {})


def test_workers_add_up():
    first = Sample(NOW, 1_000, 30, 3, {100: 30}, ())
    second = Sample(NOW, 2_000, 20, 10, {200: 20}, ())
    both = combine([first, second])
    assert both == combine([second, first])
    assert both.rate == 40
    assert both.error_rate == pytest.approx(8 / 40)
    assert combine([]).rate == 0
    assert combine([]).p95_ms is None


commits = st.lists(
    st.tuples(
        st.sampled_from(["/a", "/b", "/c"]),
        st.integers(0, 2),
        st.lists(st.floats(0, 10_000), min_size=1, max_size=5),
        st.booleans(),
    ),
    max_size=30,
)


@given(commits)
def test_seconds_add_up_to_everything_that_was_committed(
    commits: list[tuple[str, int, list[float], bool]],
):
    live = followed()
    rows: dict[tuple[str, int], WindowStats] = {}
    now, events, values, samples = NOW, 0, 0, []
    for key, minute, latencies, sampled in commits:
        start = NOW - minute * MINUTE
        rows[key, start] = merge_stats(rows.get((key, start), WindowStats()), stats_of(latencies))
        live.apply(0, key, start, rows[key, start], now)
        events += len(latencies)
        values += len(latencies) if now < start + 2 * MINUTE else 0
        if sampled:
            now += SECOND
            samples.append(live.sample(now))
    samples.append(live.sample(now + SECOND))
    assert sum(sample.count for sample in samples) == events
    assert sum(sum(sample.hist.values()) for sample in samples) == values
