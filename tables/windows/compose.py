"""Windows put together from panes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tables import sketch
from tables.histogram import Histogram
from tables.lanes import merge_lanes
from tables.windows.sliding import Sliding
from tables.windows.stats import EMPTY, WindowStats

Pane = tuple[int, WindowStats]
"""Start (epoch ms) and state."""


def compose(panes: Mapping[int, WindowStats], start_ms: int, size_ms: int) -> WindowStats:
    """State of the window ``[start, start + size)``: all panes that start in it."""
    return merged(stats for start, stats in panes.items() if start_ms <= start < start_ms + size_ms)


def merged(states: Iterable[WindowStats]) -> WindowStats:
    """All of them as one: what folding :func:`merge_stats` gives, without a copy at each step."""
    found = [state for state in states if state is not EMPTY]
    if len(found) < 2:
        return found[0] if found else EMPTY
    hist: Histogram = {}
    codes: dict[int, int] = {}
    lanes: tuple[str, ...] = ()
    distinct = b""
    for state in found:
        for bucket, count in state.hist.items():
            hist[bucket] = hist.get(bucket, 0) + count
        for code, count in state.codes.items():
            codes[code] = codes.get(code, 0) + count
        if state.lanes != lanes:
            lanes = merge_lanes(lanes, state.lanes)
        if state.distinct:
            distinct = sketch.merge(distinct, state.distinct)
    return WindowStats(
        sum(state.count for state in found),
        sum(state.errors for state in found),
        sum(state.n for state in found),
        sum(state.sum for state in found),
        min((state.min for state in found if state.min is not None), default=None),
        max((state.max for state in found if state.max is not None), default=None),
        hist,
        sum(state.late for state in found),
        lanes,
        max(state.updated_ms for state in found),
        sum(state.sumsq for state in found),
        codes,
        distinct,
    )


def rolled(panes: Sequence[Pane], size_ms: int, advance_ms: int) -> Iterator[Pane]:
    """Every window that holds a pane, from panes in ascending order, itself in that order."""
    held = Sliding()
    number, start = 0, 0
    while held or number < len(panes):
        if not held:
            start = max(0, panes[number][0] + advance_ms - size_ms, start)
        while number < len(panes) and panes[number][0] < start + size_ms:
            held.push(*panes[number])
            number += 1
        total = held.total(start)
        if held:
            yield start, total
            start += advance_ms
