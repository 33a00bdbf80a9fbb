"""Wall-clock tick of ``window-partials``: removes what was not updated for its retention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from app.engine.chunks import LaneMark
from app.engine.effects import Effects, TableView, View
from app.engine.lanes import LIVE
from tables.lanes import LANES_TABLE, MARKS_MAX, lane_of
from tables.windows.finals import FINALS_TABLE, Written
from tables.windows.keys import after_prefix
from tables.windows.progress import PROGRESS_TABLE
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

SWEEP_ROWS: Final = 200
"""Rows one tick looks at per table: at 40 µs for the widest, no tick stalls the event loop."""
PAUSE_MS: Final = 60_000
"""From the beginning of a round over a table to that of the next."""
WHOLE_EACH: Final = 16
"""One round in so many looks at every row."""

_FOREVER: Final = 1 << 62


@dataclass(slots=True)
class _Round:
    """Where the rounds over a table stand."""

    began_ms: int = 0
    number: int = 0
    place: bytes | None = None
    """Next row to look at; None: the round is over."""


@dataclass(slots=True)
class RetentionTick:
    """Removes rows not updated for their retention.

    The rows of a key lie in order of time, and so, nearly, in order of their last update: a
    round goes from key to key and takes expired rows off the front of each. Old data that is
    shipped late lies before rows that expire earlier, so that now and then a round looks at
    every row. Where a round stands is a hint kept in memory; it decides when a row is looked
    at, never whether it goes.

    A backfill's mark, and what was written of a window, stay as long as the longest retention.
    The live lane's mark always stays: while a source partition has none, windows wait for it.
    """

    specs: tuple[WindowSpec, ...]
    rows_per_tick: int = SWEEP_ROWS
    pause_ms: int = PAUSE_MS
    _rounds: dict[tuple[int, str], _Round] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Deletes of expired rows, a bounded slice per table."""
        effects = Effects()
        ages = {spec.name: spec.retention_ms for spec in self.specs}
        ages[FINALS_TABLE] = ages[LANES_TABLE] = max(ages.values(), default=0)
        for name, retention_ms in ages.items():
            held = self._rounds.setdefault((partition, name), _Round())
            if held.place is None:
                if 0 <= now_ms - held.began_ms < self.pause_ms:
                    continue
                held.began_ms, held.number, held.place = now_ms, held.number + 1, b""
            whole = name == LANES_TABLE or held.number % WHOLE_EACH == 0
            expired = self._sweep(held, view.table(name), now_ms - retention_ms, whole)
            if expired:
                effects.deletes[name] = expired
        gone = effects.deletes.get(LANES_TABLE)
        if gone:
            left = {key for key, _ in view.table(LANES_TABLE).range(b"", None, limit=MARKS_MAX)}
            lanes = {_lane(key) for key in gone} - {_lane(key) for key in left.difference(gone)}
            effects.deletes[PROGRESS_TABLE] = [lane.encode() for lane in sorted(lanes)]
        return effects

    def _sweep(self, held: _Round, table: TableView, oldest_ms: int, whole: bool) -> list[bytes]:
        expired: list[bytes] = []
        left, on_front = self.rows_per_tick, False
        while left > 0 and held.place is not None:
            limit = left if whole or on_front else 1
            rows = list(table.range(held.place, None, limit=limit))
            left -= max(1, len(rows))
            held.place = rows[-1][0] + b"\x00" if len(rows) == limit else None
            for key, state in rows:
                # A committed row may have been updated since: ask again for what the next
                # batch would see.
                on_front = touched_ms(key, state) < oldest_ms > touched_ms(key, table.get(key))
                if on_front:
                    expired.append(key)
                elif not whole:
                    held.place = after_prefix(key)
                    break
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
