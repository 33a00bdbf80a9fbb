"""State of one window of one key, and how two states of it become one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from app.engine.effects import Aggregate
from tables.histogram import Histogram
from tables.histogram import merge as merge_histograms
from tables.histogram import valid as valid_histogram
from tables.lanes import ROW_LANES_MAX, merge_lanes

SUM_MAX = (1 << 63) - 1
"""Sums stop here (292 000 years of latency), where their encoding ends, rather than fail."""
COUNT_MAX = 1 << 32
"""More events than one partial can hold: what claims more was not written here."""


def microseconds(value_ms: float) -> int:
    """Integer microseconds of a value in milliseconds >= 0, halves rounded up."""
    return int(value_ms * 1000 + 0.5)


_Count = Annotated[int, Meta(ge=0)]


class WindowStats(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a window knows of the events of one key. All fields are sums, extremes or unions.

    ``count`` events, ``errors`` of them errors; ``n`` of them carried a value, whose
    ``sum``, ``min`` and ``max`` are integer microseconds (``min``/``max`` None while n is
    0) and whose histogram is ``hist``. ``late`` events came after end + grace and are in
    none of the former. ``lanes`` are the lane keys (sorted) that fed the row, or
    :data:`tables.lanes.EVERY` once there are too many. ``updated_ms`` is the
    ingest time of the latest event, from which retention counts.
    """

    count: _Count = 0
    errors: _Count = 0
    n: _Count = 0
    sum: _Count = 0
    min: _Count | None = None
    max: _Count | None = None
    hist: dict[int, int] = {}
    late: _Count = 0
    lanes: tuple[str, ...] = ()
    updated_ms: _Count = 0


EMPTY = WindowStats()


def merge_stats(left: WindowStats, right: WindowStats) -> WindowStats:
    """Both, combined: commutative, associative, :data:`EMPTY` is neutral. Arguments stay as is."""
    lowest, highest = left.min, left.max
    if lowest is None or (right.min is not None and right.min < lowest):
        lowest = right.min
    if highest is None or (right.max is not None and right.max > highest):
        highest = right.max
    return WindowStats(
        left.count + right.count,
        left.errors + right.errors,
        left.n + right.n,
        min(left.sum + right.sum, SUM_MAX),
        lowest,
        highest,
        merge_histograms(left.hist, right.hist),
        left.late + right.late,
        merge_lanes(left.lanes, right.lanes),
        max(left.updated_ms, right.updated_ms),
    )


def consistent(stats: WindowStats) -> bool:
    """Whether the fields agree with each other, as those of every partial written here do."""
    hist: Histogram = stats.hist
    if max(stats.count, stats.late) > COUNT_MAX or max(stats.errors, stats.n) > stats.count:
        return False
    if len(stats.lanes) > ROW_LANES_MAX or not valid_histogram(hist):
        return False
    if sum(hist.values()) != stats.n:
        return False
    if stats.min is None or stats.max is None:
        return stats.n == stats.sum == 0 and stats.min is stats.max
    return stats.n * stats.min <= stats.sum <= stats.n * stats.max and stats.n > 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(WindowStats)


class WindowAggregate(Aggregate[WindowStats]):
    """Window states as the engine keeps them: merged by :func:`merge_stats`, in msgpack."""

    def merge(self, left: WindowStats, right: WindowStats) -> WindowStats:
        """Both, combined; see :func:`merge_stats`."""
        return merge_stats(left, right)

    def encode(self, state: WindowStats) -> bytes:
        """Msgpack array of the fields in order."""
        return _encoder.encode(state)

    def decode(self, raw: bytes) -> WindowStats:
        """Inverse of :meth:`encode`; raises :class:`msgspec.MsgspecError` on anything else."""
        return _decoder.decode(raw)
