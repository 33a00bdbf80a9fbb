"""The global half of windows: partials of all source partitions, merged where the key lives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import msgspec

from agents.windows.repartition import PartialKey, decode_partial
from app.engine.batch import RecordBatch
from app.engine.chunks import Chunk, LaneMark, decode_chunk, lane_key
from app.engine.effects import Effects, Reject, TableSpec, View
from app.engine.lanes import LIVE, lane_id
from app.engine.query import CommittedTable
from tables.lanes import LANES_TABLE, lanes_table
from tables.windows.keys import row_key
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats

REASON_MAX = 300
SOURCE_MAX = 1 << 16
"""Bound of source partitions: a lane key beyond it was written by something else."""

SWEEP_ROWS = 200
"""Rows one tick looks at per table: at 40 µs for the widest, no tick stalls the event loop."""


def merge_tables(specs: tuple[WindowSpec, ...]) -> tuple[TableSpec, ...]:
    """Tables of the global stage: one per window, and the marks of the lanes."""
    return (*(spec.table() for spec in specs), lanes_table())


class _ForeignError(ValueError):
    """A chunk of the right shape that no local stage of these windows wrote."""


@dataclass(frozen=True, slots=True)
class MergeWindows:
    """Engine step of ``window-partials``: each record is a chunk of partials and lane marks.

    Partials are added to their rows whatever the state of the window: lateness was decided
    by the local half. A chunk counts entirely or, rejected, not at all.
    """

    specs: tuple[WindowSpec, ...]

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG002 - the contract's signature
        """Updates of the windows' tables and of the lane marks."""
        effects = Effects()
        rows: dict[str, dict[bytes, WindowStats]] = {spec.name: {} for spec in self.specs}
        marks: dict[bytes, LaneMark] = {}
        for index, raw in enumerate(batch.values):
            try:
                chunk, partials = self._read(raw)
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                effects.rejects.append(Reject(index, str(error)[:REASON_MAX]))
                continue
            for lane, mark in chunk.lanes.items():
                key = lane_key(chunk.source, lane).encode()
                held = marks.get(key)
                marks[key] = mark if held is None else held.merged(mark)
            for (name, of, start), stats in partials:
                table, row = rows[name], row_key(of, start)
                sofar = table.get(row)
                table[row] = stats if sofar is None else merge_stats(sofar, stats)
            effects.applied += 1
        effects.updates = {name: dict(table) for name, table in rows.items() if table}
        if marks:
            effects.updates[LANES_TABLE] = dict(marks)
        return effects

    def _read(self, raw: bytes | None) -> tuple[Chunk, list[tuple[PartialKey, WindowStats]]]:
        if raw is None:
            raise _ForeignError("the record has no value")
        chunk = decode_chunk(raw)
        if not 0 <= chunk.source < SOURCE_MAX:
            raise _ForeignError(f"no source partition has the number {chunk.source}")
        for lane in chunk.lanes:
            if lane != LIVE and lane_id(lane.encode()) != lane:
                raise _ForeignError(f"no lane has the id {lane[:64]!r}")
        partials = [decode_partial(partial) for partial in chunk.partials]
        names = {spec.name for spec in self.specs}
        for (name, _, _), _ in partials:
            if name not in names:
                known = ", ".join(sorted(names))
                raise _ForeignError(f"no window is named {name[:64]!r}; configured: {known}")
        return chunk, partials


@dataclass(slots=True)
class RetentionTick:
    """Engine tick of ``window-partials``: removes rows not updated for their retention.

    Each tick looks at the next :data:`SWEEP_ROWS` rows of each table and starts over at
    the end. Where it stands is a hint kept in memory; it decides when a row is looked at,
    never whether it goes. A lane's mark stays as long as the longest retention.
    """

    specs: tuple[WindowSpec, ...]
    rows_per_tick: int = SWEEP_ROWS
    _next: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Deletes of expired rows, a bounded slice per table."""
        effects = Effects()
        ages = {spec.name: spec.retention_ms for spec in self.specs}
        ages[LANES_TABLE] = max(ages.values(), default=0)
        for name, retention_ms in ages.items():
            expired = self._sweep(partition, view, name, now_ms - retention_ms)
            if expired:
                effects.deletes[name] = expired
        return effects

    def _sweep(self, partition: int, view: View, name: str, oldest_ms: int) -> list[bytes]:
        # The engine's tables offer range() to steps as well as to queries; without it a
        # sweep could only ever see the first rows.
        table = view.table(name)
        rows = cast("CommittedTable", table).range(
            self._next.get((partition, name), b""), None, limit=self.rows_per_tick
        )
        expired, seen, last = [], 0, b""
        for key, state in rows:
            seen, last = seen + 1, key
            # A committed row may have been updated since: ask again for what the next
            # batch would see.
            if _touched_ms(state) < oldest_ms and _touched_ms(table.get(key)) < oldest_ms:
                expired.append(key)
        self._next[partition, name] = last + b"\x00" if seen == self.rows_per_tick else b""
        return expired


def _touched_ms(state: WindowStats | LaneMark | None) -> int:
    if state is None:
        return 0
    return state.updated_ms if isinstance(state, WindowStats) else state.seen_ms
