"""Log-histogram: the quantile sketch kept in state.

A histogram is ``dict[bucket, count]`` over integer values (microseconds). It is exact as
a sum of counts, so merging is plain addition: associative, commutative, without loss.
Bucket bounds are integers computed with integer arithmetic only, so every worker on every
machine agrees on them: each value up to 199 has a bucket of its own (0 included), and above
that a bucket is at most 1 % wide, so its middle is within 0.5 % of every value in it.
Buckets of negative values are those of their magnitudes, negated.

The scheme is that of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019) with bounds rounded
to integers. ``docs/adr/0004-log-histogram.md`` says why not a t-digest.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray
from tdigest import TDigest

Histogram = dict[int, int]

LAYOUT = "log-1.01-int"
"""Names the bucket bounds: part of the identity of every table that stores histograms."""

VALUE_MAX = 1 << 40
"""Values from here on (12.7 days in microseconds) share the last bucket."""


def _bounds() -> tuple[int, ...]:
    bounds = list(range(101))
    while bounds[-1] < VALUE_MAX:
        bounds.append(bounds[-1] * 101 // 100)
    return tuple(bounds)


_BOUNDS = _bounds()
"""Bucket ``b`` holds the values ``_BOUNDS[b] <= v < _BOUNDS[b + 1]``."""
LAST = len(_BOUNDS) - 2
"""The last bucket; that of the lowest values is its negative."""

_LOWER_BOUNDS = np.array(_BOUNDS, np.int64)
_CELLS_END = 1 << 16
# Most latencies are below it, and looking one up costs a twentieth of a search.
_CELLS = np.searchsorted(_LOWER_BOUNDS, np.arange(_CELLS_END), "right").astype(np.int16) - 1


def bucket(value: int) -> int:
    """Bucket of an integer; 0 is the bucket of the value 0 alone."""
    if value < 0:
        return -bucket(-value)
    return min(bisect_right(_BOUNDS, value) - 1, LAST)


def buckets(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket of each value."""
    sizes = np.abs(values)
    found = _CELLS[np.minimum(sizes, _CELLS_END - 1)].astype(np.int64)
    large = np.flatnonzero(sizes >= _CELLS_END)
    if len(large):
        places = np.searchsorted(_LOWER_BOUNDS, sizes[large], "right") - 1
        found[large] = np.minimum(places, LAST)
    return np.where(values < 0, -found, found)


_MIDDLES = tuple((lo + hi - 1) / 2 for lo, hi in pairwise(_BOUNDS))


def middle(bucket_: int) -> float:
    """Value that stands for a bucket: within 0.5 % of each value in it (below the last)."""
    return _MIDDLES[bucket_] if bucket_ >= 0 else -_MIDDLES[-bucket_]


_SHARED = {bucket_: bucket_ for bucket_ in range(-LAST, LAST + 1)}
"""One object for each bucket. A histogram that was read has objects of its own for its keys:
as many bytes as itself, and each to be fetched from memory whenever it is copied or encoded."""


def merge(left: Histogram, right: Histogram) -> Histogram:
    """Both histograms as a new one; the cost follows the smaller plus a copy of the larger.

    What is merged again and again shares its keys with all others, whoever read them.
    """
    if len(left) < len(right):
        left, right = right, left
    merged = left.copy()
    shared = _SHARED.get
    for each, count in right.items():
        key = shared(each, each)
        merged[key] = merged.get(key, 0) + count
    return merged


def quantiles(
    hist: Mapping[int, int], qs: Sequence[float], lowest: float, highest: float
) -> list[float]:
    """Values at the quantiles ``qs`` (each 0..1), in the order asked, in the values' unit.

    The quantile q of n values is the ``ceil(q * n)``-th smallest (nearest rank), answered
    as its bucket's middle and clamped to [``lowest``, ``highest``], the exact extremes.
    Raises :class:`ValueError` for an empty histogram.
    """
    if not hist:
        raise ValueError("an empty histogram has no quantiles")
    buckets = sorted(hist)
    ranks = list(accumulate(map(hist.__getitem__, buckets)))
    found: list[float] = []
    for q in qs:
        # Beyond 2^53 values q * n may be rounded up past the last rank: look no further.
        place = bisect_left(ranks, ceil(q * ranks[-1]), 0, len(ranks) - 1)
        value = middle(buckets[place])
        found.append(lowest if value < lowest else min(value, highest))
    return found


def to_tdigest(hist: Mapping[int, int]) -> TDigest:
    """A t-digest of the histogram: one weighted update per bucket, built when it is read."""
    digest = TDigest()
    for key in sorted(hist):
        digest.update(middle(key), hist[key])
    return digest


def merged(hists: Iterable[Histogram]) -> Histogram:
    """Sum of many histograms (windows, endpoints), as the dashboard asks for them."""
    total: Histogram = {}
    for hist in hists:
        for key, count in hist.items():
            total[key] = total.get(key, 0) + count
    return total
