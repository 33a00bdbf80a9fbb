"""The state of a window is a commutative monoid with a stable encoding."""

from __future__ import annotations

from statistics import pstdev

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.chunks import LaneMark
from tables import sketch
from tables.histogram import bucket
from tables.lanes import EVERY, ROW_LANES_MAX, LaneMarks, merge_lanes
from tables.windows.stats import (
    EMPTY,
    WindowAggregate,
    WindowStats,
    consistent,
    microseconds,
)

aggregate = WindowAggregate()
lanes = st.sets(st.integers(0, 200).map("{}/".format), max_size=50).map(
    lambda found: tuple(sorted(found))
)


def stats_of(
    values: list[int],
    more: int,
    errors: int,
    late: int,
    fed_by: tuple[str, ...],
    users: set[int] | None = None,
):
    hist: dict[int, int] = {}
    for value in values:
        hist[bucket(value)] = hist.get(bucket(value), 0) + 1
    return WindowStats(
        len(values) + more,
        min(errors, len(values) + more),
        len(values),
        sum(values),
        min(values, default=None),
        max(values, default=None),
        hist,
        late,
        fed_by,
        more * 1_000,
        sum(value * value for value in values),
        {200: len(values)} if values else {},
        sketch.sketch(map(str, users or ())) if values else b"",
    )


stats = st.builds(
    stats_of,
    st.lists(st.one_of(st.integers(-(10**4), 10**4), st.integers(-(10**18), 10**18)), max_size=8),
    st.integers(0, 5),
    st.integers(0, 9),
    st.integers(0, 3),
    lanes,
    st.sets(st.integers(0, 10**6), max_size=20),
)


@given(stats, stats, stats)
def test_merge_is_a_commutative_monoid_and_changes_no_argument(
    a: WindowStats, b: WindowStats, c: WindowStats
):
    before = aggregate.encode(a), aggregate.encode(b)
    assert aggregate.merge(a, b) == aggregate.merge(b, a)
    assert aggregate.merge(aggregate.merge(a, b), c) == aggregate.merge(a, aggregate.merge(b, c))
    assert aggregate.merge(a, EMPTY) == a == aggregate.merge(EMPTY, a)
    assert (aggregate.encode(a), aggregate.encode(b)) == before


@given(stats)
def test_encoding_round_trips(state: WindowStats):
    assert aggregate.decode(aggregate.encode(state)) == state


@given(stats, stats)
def test_what_is_merged_of_consistent_states_is_consistent(a: WindowStats, b: WindowStats):
    assert consistent(a)
    assert consistent(aggregate.merge(a, b))


@given(stats)
def test_sums_beyond_64_bits_are_kept_exactly(state: WindowStats):
    for _ in range(8):
        state = aggregate.merge(state, state)
        assert aggregate.decode(aggregate.encode(state)) == state
    assert not aggregate.decode(aggregate.encode(state)).wide


@pytest.mark.parametrize("wide", [b"1", bytes(63), b"\xff" * 64])
def test_sums_that_are_no_sums_are_refused(wide: bytes):
    with pytest.raises(ValueError, match="sum"):
        aggregate.decode(msgspec.msgpack.encode(WindowStats(count=1, wide=wide)))


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=50))
def test_the_standard_deviation_is_that_of_the_population(values: list[int]):
    found = stats_of(values, 0, 0, 0, ()).stddev
    assert found == pytest.approx(pstdev(values), rel=1e-9, abs=1e-9)


def test_a47_1_statistics_of_10_20_30():
    state = stats_of([10_000, 20_000, 30_000], 0, 0, 0, ())
    assert state.stddev == pytest.approx(8_164.966, abs=0.001)
    assert (state.count, state.sum / state.n) == (3, 20_000)
    assert EMPTY.stddev is None


def test_a_row_fed_by_too_many_lanes_waits_for_every_lane():
    many = tuple(sorted(f"{i}/" for i in range(ROW_LANES_MAX)))
    assert merge_lanes(many, many[:1]) == many
    assert merge_lanes(many, ("99999/",)) == EVERY
    assert merge_lanes(EVERY, ("0/",)) == merge_lanes(("0/",), EVERY) == EVERY


@pytest.mark.parametrize(
    "wrong",
    [
        WindowStats(count=1, errors=2),
        WindowStats(count=0, n=1, sum=1, min=1, max=1, hist={1: 1}),
        WindowStats(count=1, n=1, sum=5, min=1, max=1, hist={1: 1}, sumsq=1),
        WindowStats(count=1, n=1, sum=1, min=1, max=1, hist={1: 2}, sumsq=1),
        WindowStats(count=1, n=1, sum=2, min=2, max=2, hist={2: 1}, sumsq=3),
        WindowStats(count=1, n=1, sum=2, min=2, max=2, hist={2: 1}, sumsq=5),
        WindowStats(count=1, sumsq=1),
        WindowStats(count=1, codes={200: 2}),
        WindowStats(count=1, codes={200: 0}),
        WindowStats(count=1, codes={99: 1}),
        WindowStats(count=1, codes={600: 1}),
        WindowStats(count=1, distinct=b"many"),
        WindowStats(late=1, distinct=sketch.sketch(["a"])),
        WindowStats(count=1, n=0, sum=1),
        WindowStats(count=1, n=1, sum=1, min=None, max=1, hist={1: 1}),
        WindowStats(count=1 << 40),
        WindowStats(late=1 << 40),
        WindowStats(lanes=tuple(f"{i}/" for i in range(ROW_LANES_MAX + 1))),
    ],
)
def test_numbers_that_contradict_each_other_are_not_consistent(wrong: WindowStats):
    assert not consistent(wrong)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91\xff", b"\x9f", b"[]"])
def test_other_bytes_are_not_a_state(raw: bytes):
    with pytest.raises(msgspec.MsgspecError):
        aggregate.decode(raw)


@pytest.mark.parametrize(
    ("value_ms", "us"),
    [
        (0, 0),
        (0.0004, 0),
        (0.0005, 1),
        (5, 5_000),
        (1.2345, 1_235),
        (1e9, 10**12),
        (-1.2345, -1_234),
        (-1.2346, -1_235),
        (-1e300, -(10**18)),
        (1e300, 10**18),
    ],
)
def test_milliseconds_become_integer_microseconds(value_ms: float, us: int):
    assert microseconds(np.array([value_ms, value_ms])).tolist() == [us, us]


marks = st.builds(LaneMark, st.integers(0, 9), st.integers(-1, 9), st.booleans())


@given(marks, marks, marks)
def test_the_latest_mark_of_a_lane_wins_in_any_order(a: LaneMark, b: LaneMark, c: LaneMark):
    of = LaneMarks()
    assert of.merge(a, b) == of.merge(b, a)
    assert of.merge(of.merge(a, b), c) == of.merge(a, of.merge(b, c))
    assert of.decode(of.encode(a)) == a


@pytest.mark.parametrize("broken", [{-(1 << 20): 1}, {1 << 20: 1}, {3: 0}, {3: -2}])
def test_buckets_that_do_not_exist_and_counts_of_nothing_are_not_decoded(broken: dict[int, int]):
    n = sum(broken.values())
    with pytest.raises(ValueError, match="Expected `int`"):
        aggregate.decode(aggregate.encode(WindowStats(count=9, n=max(n, 0), hist=broken)))


@given(st.integers(1, 9), st.integers(-9, 9), st.integers(-9, 9))
def test_one_value_is_its_own_sum_and_its_own_extremes(count: int, value: int, other: int):
    hist = {bucket(value): 1}
    stats = WindowStats(count, 0, 1, value, value, value, hist, sumsq=value * value)
    assert consistent(stats)
    changed = {"sum": other, "min": other, "max": other, "sumsq": other * other}
    for name, wrong in changed.items():
        fits = wrong == getattr(stats, name)
        assert consistent(msgspec.structs.replace(stats, **{name: wrong})) == fits
