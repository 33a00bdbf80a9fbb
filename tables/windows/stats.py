"""State of one pane of one key, and how two states of it become one."""

from __future__ import annotations

from math import sqrt
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from app.engine.effects import Aggregate
from app.models.rules import STATUS_MAX, STATUS_MIN
from tables import sketch
from tables.histogram import LAST
from tables.histogram import merge as merge_histograms
from tables.lanes import ROW_LANES_MAX, merge_lanes

COUNT_MAX = 1 << 32
"""More events than one partial can hold: what claims more was not written here."""
VALUE_MAX_MS = 1e15
"""A value beyond this (in its own unit, either sign) counts as this."""

_WIDE_BYTES = 32


def microseconds(values_ms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integer microseconds of values in milliseconds, halves rounded up.

    Other fields than latency are kept in thousandths of their unit in the same way.
    """
    bounded = np.clip(values_ms, -VALUE_MAX_MS, VALUE_MAX_MS)
    return np.floor(bounded * 1000 + 0.5).astype(np.int64)


_Count = Annotated[int, Meta(ge=0)]
_Hist = dict[Annotated[int, Meta(ge=-LAST, le=LAST)], Annotated[int, Meta(ge=1)]]


class WindowStats(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """What a pane knows of the events of one key. All fields are sums, extremes or unions.

    ``count`` events, ``errors`` of them errors; ``n`` of them carried a value, whose ``sum``,
    ``min``, ``max`` and ``sumsq`` (sum of squares) are exact integers of microseconds
    (``min``/``max`` None while n is 0) and whose histogram is ``hist``. ``late`` events came
    after end + grace and are in none of the others. ``lanes`` are the lane keys (sorted)
    that fed the row, or :data:`tables.lanes.EVERY` once there are too many. ``updated_ms``
    is the ingest time of the latest event, from which retention counts. ``codes`` counts by
    HTTP status code, ``distinct`` is a :mod:`tables.sketch`; both are empty where the window
    does not ask for them. ``wide`` is used by the encoding alone. No cycle can run through a
    state, so the collector need not look at the many there are.
    """

    count: _Count = 0
    errors: _Count = 0
    n: _Count = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None
    hist: _Hist = {}
    late: _Count = 0
    lanes: tuple[str, ...] = ()
    updated_ms: _Count = 0
    sumsq: _Count = 0
    codes: dict[int, int] = {}
    distinct: bytes = b""
    wide: bytes = b""

    @property
    def stddev(self) -> float | None:
        """Population standard deviation in microseconds; None: no value."""
        return deviation(self.n, self.sum, self.sumsq)


def deviation(n: int, total: int, squares: int) -> float | None:
    """Population standard deviation of ``n`` values, from their sum and that of their squares."""
    if n == 0:
        return None
    # n^2 times the variance, in integers: nothing cancels that was rounded before.
    return sqrt(n * squares - total * total) / n


EMPTY = WindowStats()


def merge_stats(left: WindowStats, right: WindowStats) -> WindowStats:
    """Both, combined: commutative, associative, :data:`EMPTY` is neutral. Arguments stay as is."""
    lowest, highest = left.min, left.max
    if lowest is None or (right.min is not None and right.min < lowest):
        lowest = right.min
    if highest is None or (right.max is not None and right.max > highest):
        highest = right.max
    codes, more = left.codes, right.codes
    distinct, others = left.distinct, right.distinct
    left_ms, right_ms = left.updated_ms, right.updated_ms
    return WindowStats(
        left.count + right.count,
        left.errors + right.errors,
        left.n + right.n,
        left.sum + right.sum,
        lowest,
        highest,
        merge_histograms(left.hist, right.hist),
        left.late + right.late,
        left.lanes if left.lanes == right.lanes else merge_lanes(left.lanes, right.lanes),
        max(right_ms, left_ms),
        left.sumsq + right.sumsq,
        merge_histograms(codes, more) if codes and more else codes or more,
        sketch.merge(distinct, others) if distinct and others else distinct or others,
    )


def consistent(stats: WindowStats) -> bool:
    """Whether the fields agree with each other, as those of every partial written here do.

    Of what each may be by itself, decoding has seen to.
    """
    count, n = stats.count, stats.n
    if n > count or stats.errors > count or count > COUNT_MAX or stats.late > COUNT_MAX:
        return False
    if sum(stats.hist.values()) != n or len(stats.lanes) > ROW_LANES_MAX:
        return False
    if (stats.codes or stats.distinct) and not _valid_extras(stats):
        return False
    lowest, highest, total, squares = stats.min, stats.max, stats.sum, stats.sumsq
    if lowest is None or highest is None:
        return n == total == squares == 0 and lowest is highest
    if n == 1:
        return lowest == total == highest and squares == total * total
    return (
        n * lowest <= total <= n * highest
        and n > 0
        and total * total <= n * squares <= n * n * max(lowest * lowest, highest * highest)
    )


def _valid_extras(stats: WindowStats) -> bool:
    codes = stats.codes
    if codes and not (
        min(codes) >= STATUS_MIN
        and max(codes) <= STATUS_MAX
        and min(codes.values()) > 0
        and sum(codes.values()) <= stats.count
    ):
        return False
    return not stats.distinct or (stats.count > 0 and sketch.valid(stats.distinct))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(WindowStats)


def encode_stats(state: WindowStats) -> bytes:
    """Msgpack array of the fields in order."""
    try:
        return _encoder.encode(state)
    except OverflowError:  # a sum that 64 bits do not hold
        return _encoder.encode(narrowed(state))


def decode_stats(raw: bytes) -> WindowStats:
    """Inverse of :func:`encode_stats`.

    Raises :class:`ValueError` (of which :class:`msgspec.MsgspecError` is one kind) on
    anything else.
    """
    state = _decoder.decode(raw)
    return widened(state) if state.wide else state


def narrowed(state: WindowStats) -> WindowStats:
    """The same with its two sums as bytes, because msgpack has no integer of their size."""
    wide = state.sum.to_bytes(_WIDE_BYTES, "big", signed=True)
    wide += state.sumsq.to_bytes(_WIDE_BYTES, "big", signed=True)
    return msgspec.structs.replace(state, sum=0, sumsq=0, wide=wide)


def widened(state: WindowStats) -> WindowStats:
    """Inverse of :func:`narrowed`; raises :class:`ValueError` where that wrote no such bytes."""
    if len(state.wide) != 2 * _WIDE_BYTES or state.sum or state.sumsq:
        raise ValueError("the sums of a window are given twice")
    total = int.from_bytes(state.wide[:_WIDE_BYTES], "big", signed=True)
    squares = int.from_bytes(state.wide[_WIDE_BYTES:], "big", signed=True)
    if squares < 0:
        raise ValueError("a sum of squares is below 0")
    return msgspec.structs.replace(state, sum=total, sumsq=squares, wide=b"")


class WindowAggregate(Aggregate[WindowStats]):
    """Window states as the engine keeps them: merged by :func:`merge_stats`, in msgpack."""

    def merge(self, left: WindowStats, right: WindowStats) -> WindowStats:
        """Both, combined; see :func:`merge_stats`."""
        return merge_stats(left, right)

    def encode(self, state: WindowStats) -> bytes:
        """See :func:`encode_stats`."""
        return encode_stats(state)

    def decode(self, raw: bytes) -> WindowStats:
        """See :func:`decode_stats`."""
        return decode_stats(raw)
