"""Reading a partition's window rows: bounded, by seeks, never the whole table at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, TypeVar

from app.engine.query import CommittedTable
from tables.windows.keys import (
    PERIOD_MS,
    START_MAX,
    after_prefix,
    key_prefix,
    key_rows,
    pane_start_ms,
    period_of,
    period_rows,
    row_period_ms,
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
PERIODS_MAX: Final = 64
"""Periods in which keys are looked for, the newest: eight days. A backfill may bring thousands."""

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


def newest_rows(
    table: CommittedTable, key: str, wanted: TimeRange, limit: int
) -> list[tuple[int, WindowStats]]:
    """The newest ``limit`` rows of the key in the range, oldest first: a seek for each period."""

    def read(lo: bytes, hi: bytes, most: int) -> list[tuple[int, WindowStats]]:
        found = table.range(lo, hi, limit=most, reverse=True)
        return [(pane_start_ms(raw), stats) for raw, stats in found]

    return _newest(table, key, wanted, limit, read)


def newest_stored(table: CommittedTable, key: str, wanted: TimeRange, limit: int) -> list[Read]:
    """As :func:`newest_rows`, histograms left encoded."""

    def read(lo: bytes, hi: bytes, most: int) -> list[Read]:
        found = table.stored(lo, hi, limit=most, reverse=True)
        return [(pane_start_ms(raw), decode_stored(state)) for raw, state in found]

    return _newest(table, key, wanted, limit, read)


def _newest(
    table: CommittedTable,
    key: str,
    wanted: TimeRange,
    limit: int,
    read: Callable[[bytes, bytes, int], list[T]],
) -> list[T]:
    """Rows from the newest period to the oldest, each read newest first; oldest first."""
    from_ms = wanted.from_ms or 0
    to_ms = START_MAX + 1 if wanted.to_ms is None else min(wanted.to_ms, START_MAX + 1)
    rows: list[T] = []
    period_ms = _newest_period(table, to_ms) if wanted.to_ms is None else period_of(to_ms - 1)
    while period_ms is not None and period_ms + PERIOD_MS > from_ms:
        found = read(*key_rows(key, period_ms, from_ms, to_ms), limit - len(rows))
        rows += found
        if len(rows) >= limit or period_ms <= from_ms:
            break
        # The period before is there as a rule; where this one had nothing, there may be a gap.
        period_ms = period_ms - PERIOD_MS if found else _newest_period(table, period_ms)
    rows.reverse()
    return rows


def _newest_period(table: CommittedTable, before_ms: int) -> int | None:
    """The newest period with rows that begins before a moment."""
    hi = period_rows(before_ms - 1)[1] if before_ms > 0 else b""
    found = next(iter(table.range(b"", hi, limit=1, reverse=True)), None)
    return None if found is None else row_period_ms(found[0])


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


def keys_after(open_table: OpenTable, after: str | None, since_ms: int = 0) -> Iterator[str]:
    """Keys in row order that come after ``after``, of periods that end after ``since_ms``.

    Of at most :data:`PERIODS_MAX` periods, the newest; a seek for each that has the key.
    """
    for prefix, _ in _prefixes_after(open_table, after, since_ms):
        yield prefix[2:].decode()


def latest_rows(open_table: OpenTable, partition: int, after: str | None) -> Iterator[KeyRow]:
    """Each key after ``after`` with its newest row, in row order, read as it is consumed."""
    for prefix, period_ms in _prefixes_after(open_table, after, 0):
        key, within = prefix[2:].decode(), TimeRange(period_ms, period_ms + PERIOD_MS)
        for start_ms, stats in newest_rows(open_table(), key, within, 1):
            yield KeyRow(key, start_ms, stats, partition)


def _prefixes_after(
    open_table: OpenTable, after: str | None, since_ms: int
) -> Iterator[tuple[bytes, int]]:
    """Each key as its prefix (see :func:`key_prefix`), with the newest period that has it."""
    heads: list[tuple[bytes, int]] = []
    begin = b"" if after is None else key_prefix(after)
    period_ms = _newest_period(open_table(), START_MAX + 1)
    for _ in range(PERIODS_MAX):
        if period_ms is None or period_ms + PERIOD_MS <= since_ms:
            break
        _push_next(heads, open_table(), period_ms, begin)
        period_ms = _newest_period(open_table(), period_ms)
    while heads:
        prefix, newest_ms = heads[0][0], -heads[0][1]
        yield prefix, newest_ms
        while heads and heads[0][0] == prefix:
            _push_next(heads, open_table(), -heappop(heads)[1], prefix)


def _push_next(
    heads: list[tuple[bytes, int]], table: CommittedTable, period_ms: int, prefix: bytes
) -> None:
    """Add the next key of a period to those to come, each with its period, newest first."""
    lo, hi = period_rows(period_ms)
    found = table.range(after_prefix(period_ms, prefix) if prefix else lo, hi, limit=1)
    for raw, _ in found:
        heappush(heads, (raw[8:-8], -period_ms))


async def in_slices(items: Iterator[T], size: int = SLICE) -> AsyncIterator[T]:
    """The same items, giving the event loop a turn every ``size`` of them."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % size == 0:
            await asyncio.sleep(0)


async def parts(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """The same items, :data:`ROWS_SLICE` at a time, the event loop having a turn in between."""
    for first in range(0, len(items), ROWS_SLICE):
        if first:
            await asyncio.sleep(0)
        yield items[first : first + ROWS_SLICE]
