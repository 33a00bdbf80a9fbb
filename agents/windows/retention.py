"""Wall-clock tick of ``window-partials``: removes what was not updated for its retention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from app.engine.chunks import LaneMark
from app.engine.effects import Effects, View
from app.engine.lanes import LIVE
from tables.lanes import LANES_TABLE, MARKS_MAX, lane_of
from tables.windows.finals import FINALS_TABLE, Written
from tables.windows.progress import PROGRESS_TABLE
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

SWEEP_ROWS: Final = 200
"""Rows one tick looks at per table: at 40 µs for the widest, no tick stalls the event loop."""

_FOREVER: Final = 1 << 62


@dataclass(slots=True)
class RetentionTick:
    """Removes rows not updated for their retention.

    Each tick looks at the next :data:`SWEEP_ROWS` rows of each table and starts over at
    the end. Where it stands is a hint kept in memory; it decides when a row is looked at,
    never whether it goes. A backfill's mark, and what was written of a window, stay as long
    as the longest retention. The live lane's mark always stays: while a source partition has
    none, windows wait for it.
    """

    specs: tuple[WindowSpec, ...]
    rows_per_tick: int = SWEEP_ROWS
    _next: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Deletes of expired rows, a bounded slice per table."""
        effects = Effects()
        ages = {spec.name: spec.retention_ms for spec in self.specs}
        ages[FINALS_TABLE] = ages[LANES_TABLE] = max(ages.values(), default=0)
        for name, retention_ms in ages.items():
            expired = self._sweep(partition, view, name, now_ms - retention_ms)
            if expired:
                effects.deletes[name] = expired
        gone = effects.deletes.get(LANES_TABLE)
        if gone:
            left = {key for key, _ in view.table(LANES_TABLE).range(b"", None, limit=MARKS_MAX)}
            lanes = {_lane(key) for key in gone} - {_lane(key) for key in left.difference(gone)}
            effects.deletes[PROGRESS_TABLE] = [lane.encode() for lane in sorted(lanes)]
        return effects

    def _sweep(self, partition: int, view: View, name: str, oldest_ms: int) -> list[bytes]:
        table = view.table(name)
        rows = table.range(self._next.get((partition, name), b""), None, limit=self.rows_per_tick)
        expired, seen, last = [], 0, b""
        for key, state in rows:
            seen, last = seen + 1, key
            # A committed row may have been updated since: ask again for what the next
            # batch would see.
            if touched_ms(key, state) < oldest_ms and touched_ms(key, table.get(key)) < oldest_ms:
                expired.append(key)
        self._next[partition, name] = last + b"\x00" if seen == self.rows_per_tick else b""
        return expired


def touched_ms(key: bytes, state: WindowStats | LaneMark | Written | None) -> int:
    """When a row was last updated (epoch ms)."""
    if state is None:
        return 0
    if isinstance(state, LaneMark):
        return state.seen_ms if _lane(key) != LIVE else _FOREVER
    return state.updated_ms


def _lane(key: bytes) -> str:
    return lane_of(key.decode())
