"""Wall-clock tick of ``window-partials``: removes what was not updated for its retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from agents.windows.agenda import Agenda, window_of
from app.engine.effects import Effects, TableView, View
from app.engine.lanes import LIVE
from tables.lanes import LANES_TABLE, lanes_without
from tables.progress import PROGRESS_TABLE
from tables.timers import TIMERS_TABLE, lane_is_over
from tables.windows.finals import FINALS_TABLE, Written, final_key
from tables.windows.keys import after_prefix, parse_row_key, row_key
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

SWEEP_ROWS: Final = 200
"""Rows one tick looks at per table: at 40 µs for the widest, no tick stalls the event loop."""
PAUSE_MS: Final = 60_000
"""From the beginning of a round over a table to that of the next."""
WHOLE_EACH: Final = 16
"""One round in so many looks at every row."""

Goes = Callable[[bytes, Any], bool]
"""Whether a committed row (key, state) is to be removed."""


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

    A pane stays until the last window that holds it was written, however long that takes: what
    comes after an outage may be older than the retention before it is worked on. What was
    written of a window stays as long as the longest retention, and as long as a pane of it:
    else the next partial would begin with the first revision again. A backfill's mark goes once
    nothing waits for the lane. The live lane's mark always stays: while a source partition has
    none, windows wait for it.
    """

    specs: tuple[WindowSpec, ...]
    rows_per_tick: int = SWEEP_ROWS
    pause_ms: int = PAUSE_MS
    _rounds: dict[tuple[int, str], _Round] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Deletes of expired rows, a bounded slice per table; timers of what is yet to write."""
        effects, agenda = Effects(), Agenda(view)
        for name, goes in self._tables(view, agenda, now_ms):
            held = self._rounds.setdefault((partition, name), _Round())
            if held.place is None:
                # Marks are read at each event-time tick: none of them waits for its turn.
                pause_ms = 0 if name == LANES_TABLE else self.pause_ms
                if 0 <= now_ms - held.began_ms < pause_ms:
                    continue
                held.began_ms, held.number, held.place = now_ms, held.number + 1, b""
            whole = name == LANES_TABLE or held.number % WHOLE_EACH == 0
            expired = self._sweep(held, view.table(name), goes, whole)
            if expired:
                effects.deletes[name] = expired
        gone = effects.deletes.get(LANES_TABLE)
        if gone:
            effects.deletes[PROGRESS_TABLE] = [lane.encode() for lane in lanes_without(view, gone)]
        if agenda.wanted:
            effects.updates[TIMERS_TABLE] = {**agenda.wanted}
            effects.time_moved = True
        if progress := agenda.changes():
            effects.updates[PROGRESS_TABLE] = {**progress}
        return effects

    def _tables(self, view: View, agenda: Agenda, now_ms: int) -> Iterator[tuple[str, Goes]]:
        """Every table that is swept, and which of its rows go."""
        for spec in self.specs:
            yield spec.name, _Panes(spec, view, agenda, now_ms - spec.retention_ms)
        longest_ms = max((spec.retention_ms for spec in self.specs), default=0)
        yield FINALS_TABLE, _Finals(self.specs, view, now_ms - longest_ms)
        yield LANES_TABLE, lambda key, mark: lane_is_over(view, key, mark)

    def _sweep(self, held: _Round, table: TableView, goes: Goes, whole: bool) -> list[bytes]:
        expired: list[bytes] = []
        left, on_front = self.rows_per_tick, False
        while left > 0 and held.place is not None:
            limit = left if whole or on_front else 1
            rows = list(table.range(held.place, None, limit=limit))
            left -= max(1, len(rows))
            held.place = rows[-1][0] + b"\x00" if len(rows) == limit else None
            for key, state in rows:
                on_front = goes(key, state)
                if on_front:
                    expired.append(key)
                elif not whole:
                    held.place = after_prefix(key)
                    break
        return expired


@dataclass(frozen=True, slots=True)
class _Panes:
    """Panes of a window that were not updated since, and that nothing is to be written of."""

    spec: WindowSpec
    view: View
    agenda: Agenda
    oldest_ms: int

    def __call__(self, row: bytes, seen: WindowStats) -> bool:
        if seen.updated_ms >= self.oldest_ms:
            return False
        # A committed row may have been updated since: ask again for what the next batch
        # would see.
        state: WindowStats | None = self.view.table(self.spec.name).get(row)
        if state is None or not state.count or not self.spec.closes:
            return state is None or state.updated_ms < self.oldest_ms
        if state.updated_ms >= self.oldest_ms:
            return False
        return self._is_written(row, state)

    def _is_written(self, row: bytes, state: WindowStats) -> bool:
        """Whether the last window that holds the pane, which begins with it, was written."""
        spec, (key, start_ms) = self.spec, parse_row_key(row)
        named = final_key(spec.name, key, start_ms)
        written: Written | None = self.view.table(FINALS_TABLE).get(named)
        if written and written.meaning == spec.identity and written.count >= state.count:
            return True
        if written and written.may_miss_panes(spec, self.oldest_ms + spec.retention_ms):
            return True  # it is not written again, whatever came for it
        # Its timer is set, unless the window was not declared when that was due.
        self.agenda.set(LIVE, spec.due_ms(start_ms), (spec.name, key, start_ms))
        return False


class _Finals:
    """What was written of windows that long ago, and of which no pane is left."""

    def __init__(self, specs: tuple[WindowSpec, ...], view: View, oldest_ms: int) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._view = view
        self._oldest_ms = oldest_ms

    def __call__(self, row: bytes, seen: Written) -> bool:
        if seen.updated_ms >= self._oldest_ms:
            return False
        written: Written | None = self._view.table(FINALS_TABLE).get(row)
        if written is not None and written.updated_ms >= self._oldest_ms:
            return False
        name, key, start_ms = window_of(row)  # named as its timers are
        spec = self._specs.get(name)
        if spec is None:
            return True
        lo, hi = row_key(key, start_ms), row_key(key, start_ms + spec.size_ms)
        return not any(self._view.table(name).range(lo, hi, limit=1))
