"""The log-histogram: accuracy, monoid laws, quantiles."""

from __future__ import annotations

from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.histogram import (
    LAST,
    VALUE_MAX,
    bucket,
    buckets,
    merge,
    merged,
    middle,
    quantiles,
    to_tdigest,
)

values = st.one_of(
    st.integers(0, 1_000),
    st.integers(0, 1 << 17),
    st.integers(0, 1 << 28),
    st.integers(0, VALUE_MAX - 1),
)
histograms = st.dictionaries(st.integers(0, 2_400), st.integers(1, 1_000), max_size=20)


def histogram_of(numbers: list[int]) -> dict[int, int]:
    return dict(Counter(map(bucket, numbers)))


@given(values)
def test_a_buckets_middle_is_within_half_a_percent_of_each_value_in_it(value: int):
    assert abs(middle(bucket(value)) - value) <= 0.005 * value


@given(values)
def test_buckets_never_descend(value: int):
    assert 0 <= bucket(value + 1) - bucket(value) <= 1


def test_buckets_of_many_values_are_those_of_each():
    edges = (0, 100, 199, 200, 1 << 16, 1 << 26, VALUE_MAX, 10**18)
    near = [edge + by for edge in edges for by in range(-700, 701)]
    assert buckets(np.array(near)).tolist() == list(map(bucket, near))


@given(st.lists(st.integers(-(10**18), 10**18) | values))
def test_buckets_of_any_values_are_those_of_each(numbers: list[int]):
    assert buckets(np.array(numbers, np.int64)).tolist() == list(map(bucket, numbers))


def test_bucket_bounds_are_pinned_because_stored_state_depends_on_them():
    probes = (0, 1, 100, 199, 200, 1_000, 50_000, 65_536, 10_000_000, 60_000_000, 10**12)
    pinned = [0, 1, 100, 199, 200, 383, 781, 808, 1314, 1494, 2471]
    assert [bucket(probe) for probe in probes] == pinned


def test_zero_has_a_bucket_of_its_own():
    assert (bucket(0), middle(0)) == (0, 0.0)
    assert bucket(1) != 0


def test_values_beyond_the_last_bucket_share_it():
    assert bucket(VALUE_MAX * 8) == bucket(VALUE_MAX)
    assert bucket(VALUE_MAX * 8) == -bucket(-VALUE_MAX * 8) == LAST


@given(values)
def test_buckets_of_negative_values_mirror_those_of_their_magnitudes(value: int):
    assert bucket(-value) == -bucket(value)
    assert middle(bucket(-value)) == -middle(bucket(value))


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.floats(0, 1))
def test_a_quantile_of_values_of_both_signs_is_within_half_a_percent(numbers: list[int], q: float):
    [found] = quantiles(histogram_of(numbers), [q], min(numbers), max(numbers))
    exact = sorted(numbers)[max(1, ceil(q * len(numbers))) - 1]
    assert abs(found - exact) <= 0.005 * abs(exact)


@given(histograms, histograms, histograms)
def test_merge_is_a_commutative_monoid_and_changes_no_argument(
    a: dict[int, int], b: dict[int, int], c: dict[int, int]
):
    before = dict(a), dict(b)
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merged([a, b, c])
    assert merge(a, {}) == a
    assert (a, b) == before
    assert merge(a, {}) is not a


@given(st.lists(values), st.lists(values))
def test_merging_histograms_is_the_histogram_of_all_values(left: list[int], right: list[int]):
    assert merge(histogram_of(left), histogram_of(right)) == histogram_of(left + right)


@given(st.lists(values, min_size=1), st.floats(0, 1))
def test_a_quantile_is_within_half_a_percent_of_the_nearest_rank(numbers: list[int], q: float):
    [found] = quantiles(histogram_of(numbers), [q], min(numbers), max(numbers))
    exact = sorted(numbers)[max(1, ceil(q * len(numbers))) - 1]
    assert abs(found - exact) <= 0.005 * exact
    assert min(numbers) <= found <= max(numbers)


@given(st.lists(values, min_size=1))
def test_quantiles_ascend_and_end_at_the_extremes(numbers: list[int]):
    qs = [0.0, 0.1, 0.5, 0.9, 1.0]
    found = quantiles(histogram_of(numbers), qs, min(numbers), max(numbers))
    assert found == sorted(found)


def test_an_empty_histogram_has_no_quantiles():
    with pytest.raises(ValueError, match="empty"):
        quantiles({}, [0.5], 0, 0)


def test_a_tdigest_of_a_histogram_agrees_with_the_values():
    hist = merged(
        histogram_of(list(range(first, 10_001_000, 3_000))) for first in (1_000, 2_000, 3_000)
    )
    digest = to_tdigest(hist)
    assert digest.percentile(50) == pytest.approx(5_000_000, rel=0.02)
    assert digest.percentile(95) == pytest.approx(9_500_000, rel=0.01)
    assert digest.percentile(99) == pytest.approx(9_900_000, rel=0.01)
