"""What a query hears of windows: panes and lane marks become the JSON of an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

from app.engine.chunks import LaneMark
from tables import sketch
from tables.history.span import Place
from tables.lanes import EVERY
from tables.windows.figures import codes_of, figures_of
from tables.windows.finals import Written
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats
from tables.windows.stored import StoredStats

State = Literal["open", "closed", "final"]

STATES: tuple[State, ...] = get_args(State)
NOTHING_WRITTEN: Mapping[int, Written] = MappingProxyType({})


class WindowAnswer(msgspec.Struct, frozen=True, gc=False):
    """One window of one key. Times are epoch ms, half-open; values are in the field's ms.

    A statistic that has no value (no event carried one, or the window does not ask for it)
    is None. ``revision``: how often its final record was written, 0 before the first.
    ``source`` is told where an answer spans state and history.
    """

    start: int
    end: int
    state: State
    revision: int
    count: int
    errors: int
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    stddev: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    distinct: int | None
    codes: dict[str, int] | None
    late: int
    source: Place | msgspec.UnsetType = msgspec.UNSET


def row_watermark_ms(lanes: tuple[str, ...], lane_marks: Mapping[str, LaneMark]) -> int | None:
    """How far every lane that fed a row has come at least; None: none of them is awake.

    A lane that is idle, or has no mark (it was retired long ago), holds nothing open. A
    row fed by :data:`EVERY` lane waits for all there are.
    """
    keys: Iterable[str] = lane_marks if lanes == EVERY else lanes
    marks = (lane_marks.get(key) for key in keys)
    awake = (mark.watermark_ms for mark in marks if mark is not None and not mark.idle)
    return min(awake, default=None)


def watermark_by_marks(
    fed: Iterable[tuple[str, ...]], lane_marks: Mapping[str, LaneMark]
) -> int | None:
    """How far the lanes that ``fed`` rows have come at least; None: none of them is awake."""
    ats = (row_watermark_ms(lanes, lane_marks) for lanes in fed)
    return min((at for at in ats if at is not None), default=None)


def window_state(spec: WindowSpec, start_ms: int, watermark_ms: int | None) -> State:
    """Open before the end, closed until end + grace, then final; final without a watermark.

    A final window may still be revised, by a lane that wakes up or appears later.
    """
    end = start_ms + spec.size_ms
    if watermark_ms is None or watermark_ms >= end + spec.grace_ms:
        return "final"
    return "open" if watermark_ms < end else "closed"


def window_answer(
    spec: WindowSpec,
    windows: Iterable[tuple[int, WindowStats | StoredStats]],
    lane_marks: Mapping[str, LaneMark],
    written: Mapping[int, Written] = NOTHING_WRITTEN,
) -> list[WindowAnswer]:
    """Answers for windows ``(start, state)`` of one key; what was ``written`` by start."""
    watermarks: dict[tuple[str, ...], int | None] = {}
    answers = []
    for start, stats in windows:
        if stats.lanes not in watermarks:  # nearly all rows are fed by the same few lanes
            watermarks[stats.lanes] = row_watermark_ms(stats.lanes, lane_marks)
        state = window_state(spec, start, watermarks[stats.lanes])
        answers.append(_answer(spec, start, stats, state, written.get(start)))
    return answers


def _answer(
    spec: WindowSpec,
    start_ms: int,
    stats: WindowStats | StoredStats,
    state: State,
    written: Written | None,
) -> WindowAnswer:
    figures = figures_of(stats, None if written is None else written.quantiles_of(stats, spec))
    return WindowAnswer(
        start_ms,
        start_ms + spec.size_ms,
        state,
        0 if written is None else written.revision,
        stats.count,
        stats.errors,
        figures.sum,
        figures.avg,
        figures.min,
        figures.max,
        figures.stddev,
        figures.p50,
        figures.p95,
        figures.p99,
        sketch.estimate(stats.distinct) if spec.distinct is not None else None,
        codes_of(stats) if spec.codes else None,
        stats.late,
    )


def counts_since(rows: Iterable[tuple[str, int, WindowStats]], since_ms: int) -> dict[str, int]:
    """Events per key over the rows ``(key, start, stats)`` that start at ``since_ms`` or later."""
    counts: dict[str, int] = {}
    for key, start, stats in rows:
        if start >= since_ms:
            counts[key] = counts.get(key, 0) + stats.count
    return counts
