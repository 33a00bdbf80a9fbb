"""What a query hears of windows: rows and lane marks become the JSON of an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from app.engine.chunks import LaneMark
from tables.histogram import quantiles
from tables.lanes import EVERY
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

State = Literal["open", "closed", "final"]

QUANTILES = (0.5, 0.95, 0.99)


class WindowAnswer(TypedDict):
    """One window of one key. Times are epoch ms, half-open; values are in the field's ms.

    A statistic that has no value (no event carried one) is None.
    """

    start: int
    end: int
    state: State
    count: int
    errors: int
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    late: int


def row_watermark_ms(lanes: tuple[str, ...], lane_marks: Mapping[str, LaneMark]) -> int | None:
    """How far every lane that fed a row has come at least; None: none of them is awake.

    A lane that is idle, or has no mark (it was retired long ago), holds nothing open. A
    row fed by :data:`EVERY` lane waits for all there are.
    """
    keys: Iterable[str] = lane_marks if lanes == EVERY else lanes
    marks = (lane_marks.get(key) for key in keys)
    awake = (mark.watermark_ms for mark in marks if mark is not None and not mark.idle)
    return min(awake, default=None)


def window_state(spec: WindowSpec, start_ms: int, watermark_ms: int | None) -> State:
    """Open before the end, closed until end + grace, then final; final without a watermark.

    A final window may still be revised, by a lane that wakes up or appears later.
    """
    end = start_ms + spec.size_ms
    if watermark_ms is None or watermark_ms >= end + spec.grace_ms:
        return "final"
    return "open" if watermark_ms < end else "closed"


def one_window(
    spec: WindowSpec, start_ms: int, stats: WindowStats, lane_marks: Mapping[str, LaneMark]
) -> WindowAnswer:
    """The answer for one row."""
    end = start_ms + spec.size_ms
    state = window_state(spec, start_ms, row_watermark_ms(stats.lanes, lane_marks))
    answer = WindowAnswer(
        start=start_ms,
        end=end,
        state=state,
        count=stats.count,
        errors=stats.errors,
        sum=None,
        avg=None,
        min=None,
        max=None,
        p50=None,
        p95=None,
        p99=None,
        late=stats.late,
    )
    if stats.min is not None and stats.max is not None:
        p50, p95, p99 = quantiles(stats.hist, QUANTILES, stats.min, stats.max)
        answer["sum"] = stats.sum / 1000
        answer["avg"] = stats.sum / stats.n / 1000
        answer["min"], answer["max"] = stats.min / 1000, stats.max / 1000
        answer["p50"], answer["p95"], answer["p99"] = p50 / 1000, p95 / 1000, p99 / 1000
    return answer


def window_answer(
    spec: WindowSpec,
    key: str,  # noqa: ARG001 - names the rows where it is called; they hold only their starts
    rows: Iterable[tuple[int, WindowStats]],
    lane_marks: Mapping[str, LaneMark],
) -> list[WindowAnswer]:
    """Windows of one key from its rows ``(start, stats)``, in the rows' order."""
    return [one_window(spec, start, stats, lane_marks) for start, stats in rows]


def counts_since(rows: Iterable[tuple[str, int, WindowStats]], since_ms: int) -> dict[str, int]:
    """Events per key over the rows ``(key, start, stats)`` that start at ``since_ms`` or later."""
    counts: dict[str, int] = {}
    for key, start, stats in rows:
        if start >= since_ms:
            counts[key] = counts.get(key, 0) + stats.count
    return counts
