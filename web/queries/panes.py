"""Windows of one key from the panes that are stored, and what was written of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.engine.query import CommittedTable
from tables.lanes import EVERY
from tables.windows.compose import Pane, rolled
from tables.windows.finals import Written, finals_of_key
from tables.windows.keys import START_MAX, pane_start_ms, period_of
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats
from tables.windows.stored import StoredStats
from web.queries.params import WINDOWS_MAX
from web.queries.rows import (
    OpenTable,
    Read,
    in_slices,
    newest_rows_sliced,
    newest_stored_sliced,
)
from web.queries.times import TimeRange
from web.queries.whence import Marks


async def newest_panes(
    open_table: OpenTable, spec: WindowSpec, key: str, wanted: TimeRange
) -> list[Pane]:
    """Panes of the newest windows that start in the range, oldest first, in slices."""
    reach = spec.size_ms - spec.advance_ms
    to_ms = None if wanted.to_ms is None else wanted.to_ms + reach
    return await newest_rows_sliced(
        open_table, key, TimeRange(wanted.from_ms, to_ms), WINDOWS_MAX + spec.panes - 1
    )


async def newest_windows(
    open_table: OpenTable, spec: WindowSpec, key: str, wanted: TimeRange
) -> list[Read]:
    """The newest windows that start in the range, oldest first, in slices.

    One that is a single pane is not decoded further than its histogram.
    """
    if spec.panes == 1:
        return await newest_stored_sliced(open_table, key, wanted, WINDOWS_MAX)
    panes = await newest_panes(open_table, spec, key, wanted)
    from_ms = wanted.from_ms or 0
    if len(panes) >= WINDOWS_MAX + spec.panes - 1:
        from_ms = max(from_ms, panes[0][0])  # windows that start before may hold older panes
    to_ms = START_MAX if wanted.to_ms is None else wanted.to_ms
    found: list[Read] = [
        (start, stats)
        async for start, stats in in_slices(rolled(panes, spec.size_ms, spec.advance_ms))
        if from_ms <= start < to_ms
    ]
    return found[-WINDOWS_MAX:]


def what_was_written(
    table: CommittedTable, spec: WindowSpec, key: str, windows: Sequence[Read]
) -> Mapping[int, Written]:
    """What was written of each window last, by start; under a former declaration as well."""
    if not spec.closes or not windows:
        return {}
    first, last = windows[0][0], windows[-1][0]
    found: dict[int, Written] = {}
    for period_ms in {period_of(start_ms) for start_ms, _ in windows}:
        lo, hi = finals_of_key(spec.name, key, period_ms, first, last + 1)
        rows = table.range(lo, hi, limit=WINDOWS_MAX + spec.panes)
        found |= {pane_start_ms(raw): written for raw, written in rows}
    return found


def lane_marks(
    before: Marks, table: CommittedTable, rows: Iterable[WindowStats | StoredStats]
) -> Marks:
    """Marks of the lanes that fed the rows; those that were not known ``before`` as of now."""
    fed = {stats.lanes for stats in rows}
    if EVERY in fed:
        return before
    names = {name for lanes in fed for name in lanes}
    marks = ((name, before.get(name) or table.get(name.encode())) for name in names)
    return {name: mark for name, mark in marks if mark is not None}
