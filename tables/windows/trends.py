"""Sliding trends, composed on read from panes: moving figures over several sizes at once. Pure.

A window of a trend ends at a hop boundary and holds the panes of its size before it; an
event is so in ``size / advance`` consecutive windows, and is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from tables.histogram import quantiles
from tables.windows.compose import Pane, merged
from tables.windows.sliding import Sliding
from tables.windows.stats import WindowStats

FLAT_WITHIN = 10
"""The short window's rate differs from the long one's by over a tenth, or the trend is flat."""

Direction = Literal["up", "down", "flat"]


class TrendWindow(msgspec.Struct, frozen=True, rename={"from_ms": "from", "to_ms": "to"}):
    """One window ``[from, to)``; latencies in ms, None when no event carried one.

    ``complete``: every lane that fed it has come to its end. An event that comes later than
    that, within the grace, is still added to it.
    """

    from_ms: int
    to_ms: int
    count: int
    errorRate: float | None  # noqa: N815 - the name in the answer
    avgLatency: float | None  # noqa: N815 - as above
    min: float | None
    max: float | None
    stddev: float | None
    p95: float | None
    ratePerSec: float  # noqa: N815 - as above
    complete: bool


def hop_before(moment_ms: int, advance_ms: int) -> int:
    """The last hop boundary at or before a moment."""
    return moment_ms - moment_ms % advance_ms


def composed(panes: Sequence[Pane], end_ms: int, size_ms: int) -> WindowStats:
    """State of the window ``[end - size, end)`` from panes in any order."""
    return merged(stats for start, stats in panes if end_ms - size_ms <= start < end_ms)


def rolling(
    panes: Sequence[Pane], ends_ms: Iterable[int], size_ms: int
) -> Iterator[tuple[int, WindowStats]]:
    """State of each window ``[end - size, end)``; panes and ends ascend."""
    held, at = Sliding(), 0
    for end_ms in ends_ms:
        while at < len(panes) and panes[at][0] < end_ms:
            held.push(*panes[at])
            at += 1
        yield end_ms, held.total(end_ms - size_ms)


def trend_window(stats: WindowStats, end_ms: int, size_ms: int, *, complete: bool) -> TrendWindow:
    """The answer for one window. The deviation is that of the population."""
    valued = stats.min is not None and stats.max is not None and stats.n > 0
    average = stats.sum / stats.n if valued else None
    p95 = None
    if stats.min is not None and stats.max is not None:
        (p95,) = quantiles(stats.hist, (0.95,), stats.min, stats.max)
    return TrendWindow(
        end_ms - size_ms,
        end_ms,
        stats.count,
        stats.errors / stats.count if stats.count else None,
        _ms(average),
        _ms(stats.min),
        _ms(stats.max),
        _ms(stats.stddev),
        _ms(p95),
        stats.count * 1000 / size_ms,
        complete,
    )


def direction(windows: Mapping[int, TrendWindow]) -> Direction:
    """Whether the rate of the shortest window (size -> window) differs from the longest's."""
    short, long = min(windows), max(windows)
    # Rates over a common length, in integers: a tenth is a tenth.
    rate, usual = windows[short].count * long, windows[long].count * short
    if abs(rate - usual) * FLAT_WITHIN <= usual:
        return "flat"
    return "up" if rate > usual else "down"


def size_label(size_ms: int) -> str:
    """``1m`` of 60 000: the largest unit that divides it."""
    for unit, ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if size_ms % ms == 0:
            return f"{size_ms // ms}{unit}"
    return f"{size_ms}ms"


def _ms(microseconds: float | None) -> float | None:
    return None if microseconds is None else microseconds / 1000
