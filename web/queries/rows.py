"""Reading a partition's window rows: bounded, by seeks, never the whole table at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from app.engine.query import CommittedTable
from tables.windows.keys import (
    START_MAX,
    after_key,
    key_prefix,
    pane_start_ms,
    parse_row_key,
    row_key,
)
from tables.windows.stats import WindowStats
from tables.windows.stored import StoredStats, decode_stored
from web.queries.times import TimeRange

SLICE: Final = 32
"""Keys, a seek each, read before other work of the event loop has its turn."""
ROWS_SLICE: Final = 128
"""Rows of one key read (or answered) between two turns: a few ms with the widest histograms.

A turn may last as long as a step, so an answer should not need many of them.
"""

OpenTable = Callable[[], CommittedTable]
"""Opened anew for each key: between two slices the partition may have left this worker."""

T = TypeVar("T")
Read = tuple[int, WindowStats | StoredStats]
"""Start of a window (epoch ms) and its state, as much of it as was decoded."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key and one of its rows."""

    key: str
    start_ms: int
    stats: WindowStats
    partition: int


def _bounds(key: str, wanted: TimeRange) -> tuple[bytes, bytes]:
    lo = key_prefix(key) if wanted.from_ms is None else row_key(key, wanted.from_ms)
    hi = after_key(key) if wanted.to_ms is None else row_key(key, min(wanted.to_ms, START_MAX))
    return lo, hi


def newest_rows(
    table: CommittedTable, key: str, wanted: TimeRange, limit: int
) -> list[tuple[int, WindowStats]]:
    """The newest ``limit`` rows of the key in the range, oldest first."""
    lo, hi = _bounds(key, wanted)
    rows = [
        (pane_start_ms(raw), stats) for raw, stats in table.range(lo, hi, limit=limit, reverse=True)
    ]
    rows.reverse()
    return rows


def newest_stored(table: CommittedTable, key: str, wanted: TimeRange, limit: int) -> list[Read]:
    """As :func:`newest_rows`, histograms left encoded."""
    lo, hi = _bounds(key, wanted)
    stored = table.stored(lo, hi, limit=limit, reverse=True)
    rows: list[Read] = [(pane_start_ms(raw), decode_stored(state)) for raw, state in stored]
    rows.reverse()
    return rows


async def newest_rows_sliced(
    open_table: OpenTable, key: str, wanted: TimeRange, limit: int
) -> list[tuple[int, WindowStats]]:
    """As :func:`newest_rows`, in slices between which the event loop has its turn."""
    return await _sliced(newest_rows, open_table, key, wanted, limit)


async def newest_stored_sliced(
    open_table: OpenTable, key: str, wanted: TimeRange, limit: int
) -> list[Read]:
    """As :func:`newest_stored`, in slices between which the event loop has its turn."""
    return await _sliced(newest_stored, open_table, key, wanted, limit)


async def _sliced(
    newest: Callable[[CommittedTable, str, TimeRange, int], list[tuple[int, T]]],
    open_table: OpenTable,
    key: str,
    wanted: TimeRange,
    limit: int,
) -> list[tuple[int, T]]:
    found: list[list[tuple[int, T]]] = []
    left = limit
    while left > 0:
        rows = newest(open_table(), key, wanted, min(left, ROWS_SLICE))
        found.append(rows)
        if len(rows) < ROWS_SLICE:
            break
        left -= len(rows)
        wanted = TimeRange(wanted.from_ms, rows[0][0])
        await asyncio.sleep(0)
    return [row for rows in reversed(found) for row in rows]


def has_key(table: CommittedTable, key: str) -> bool:
    """Whether the key has any row at all."""
    return bool(newest_rows(table, key, TimeRange(None, None), 1))


def keys_after(open_table: OpenTable, after: str | None) -> Iterator[str]:
    """Keys in row order that come after ``after``, one seek each."""
    lo = b"" if after is None else after_key(after)
    while True:
        found = next(iter(open_table().range(lo, None, limit=1)), None)
        if found is None:
            return
        key = parse_row_key(found[0])[0]
        yield key
        lo = after_key(key)


def latest_rows(open_table: OpenTable, partition: int, after: str | None) -> Iterator[KeyRow]:
    """Each key after ``after`` with its newest row, in row order, read as it is consumed."""
    for key in keys_after(open_table, after):
        for start_ms, stats in newest_rows(open_table(), key, TimeRange(None, None), 1):
            yield KeyRow(key, start_ms, stats, partition)


async def in_slices(items: Iterator[T]) -> AsyncIterator[T]:
    """The same items, giving the event loop a turn every :data:`SLICE` of them."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)


async def parts(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The same items, :data:`ROWS_SLICE` at a time, the event loop having a turn in between."""
    for first in range(0, len(items), ROWS_SLICE):
        if first:
            await asyncio.sleep(0)
        yield items[first : first + ROWS_SLICE]
