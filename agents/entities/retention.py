"""The tick of ``entity-events``: removes what nobody may ask for any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from app.engine.effects import Effects, View
from tables.entities.event import type_of
from tables.entities.history import HISTORY_TABLE, Change
from tables.entities.spec import EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState

SWEEP_ROWS: Final = 250
"""Rows one tick looks at per table: at 3 to 10 µs each, it does not hold up the event loop."""
UNCONFIGURED_MS: Final = 7 * 24 * 60 * 60 * 1000
"""Retention of rows whose type is no longer in the file: time to notice a mistake in it."""


@dataclass(slots=True)
class EntityRetention:
    """Removes tombstones and events of the history older than their type's retention.

    Live entities stay. Each tick looks at the next rows of each table and starts over at the end;
    where it stands is a hint kept in memory, which decides when a row is looked at, never
    whether it goes.
    """

    specs: EntitySpecs
    rows_per_tick: int = SWEEP_ROWS
    _next: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Deletes of expired rows, a bounded slice per table."""
        deletes = {
            name: self._sweep(partition, view, name, now_ms)
            for name in (ENTITIES_TABLE, HISTORY_TABLE)
        }
        return Effects(deletes={name: keys for name, keys in deletes.items() if keys})

    def _sweep(self, partition: int, view: View, name: str, now_ms: int) -> list[bytes]:
        table = view.table(name)
        lo = self._next.get((partition, name), b"")
        expired, seen, last = [], 0, b""
        for key, row in table.range(lo, None, limit=self.rows_per_tick):
            seen, last = seen + 1, key
            # A committed row may have been changed since: ask for what the next batch sees.
            if self._over(key, row, now_ms) and self._over(key, table.get(key), now_ms):
                expired.append(key)
        self._next[partition, name] = last + b"\x00" if seen == self.rows_per_tick else b""
        return expired

    def _over(self, key: bytes, row: EntityState | Change | None, now_ms: int) -> bool:
        if isinstance(row, EntityState):
            return row.deregistered and row.touched_ms < now_ms - self._tombstone_ms(key)
        return row is not None and row.ingest_ts < now_ms - self._history_ms(key)

    def _tombstone_ms(self, key: bytes) -> int:
        spec = self.specs.get(type_of(key))
        return UNCONFIGURED_MS if spec is None else spec.tombstone_retention_ms

    def _history_ms(self, key: bytes) -> int:
        spec = self.specs.get(type_of(key))
        return UNCONFIGURED_MS if spec is None else spec.history_retention_ms
