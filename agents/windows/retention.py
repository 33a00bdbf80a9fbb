"""Wall-clock tick of ``window-partials``: drops periods that were not updated for the retention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from agents.windows.agenda import Agenda
from app.engine.effects import Effects, TableView, View
from app.engine.lanes import LIVE
from tables.lanes import LANES_TABLE, lanes_without
from tables.progress import PROGRESS_TABLE
from tables.timers import lane_is_over
from tables.windows.finals import FINALS_TABLE, Written, final_key, finals_of_period
from tables.windows.keys import (
    PERIOD_MS,
    parse_row_key,
    period_rows,
    row_period_ms,
)
from tables.windows.periods import PERIODS_TABLE, Period, parse_period_key, period_key
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

SLICE_ROWS: Final = 200
"""Rows one tick looks at: at 40 µs for the widest, no tick stalls the event loop."""
PAUSE_MS: Final = 60_000
"""From the beginning of a round over the periods to that of the next."""


@dataclass(slots=True)
class _Round:
    """Where the rounds over a partition stand: when to look at what, never whether it goes."""

    began_ms: int = 0
    place: bytes | None = None
    """Next period to look at; None: the round is over."""
    row: bytes = b""
    """Next row of that period, where its rows are looked at one by one."""
    lane: bytes = b""
    """Next mark of a lane."""
    found: dict[str, int] = field(default_factory=dict)
    """By table, the next period that may be there without being known of."""


@dataclass(slots=True)
class RetentionTick:
    """Drops the panes of a period as one range, once none of them was updated for the retention.

    A period stays until every window that holds a pane of it was written, however long that
    takes: what comes after an outage may be older than the retention before it is worked on.
    No timer of these windows is left then. Where that does not tell, because one fired while
    the window was not declared, the panes are looked at one by one: those that were written go,
    and the others set a timer.

    What was written of windows stays as long as the longest retention, and as long as their
    panes: else the next partial would begin with the first revision again. A backfill's mark
    goes once nothing waits for the lane. The live lane's mark always stays: while a source
    partition has none, windows wait for it.
    """

    specs: tuple[WindowSpec, ...]
    rows_per_tick: int = SLICE_ROWS
    pause_ms: int = PAUSE_MS
    _rounds: dict[int, _Round] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Drops of what has expired, a bounded part of it; timers of what is yet to write."""
        held = self._rounds.setdefault(partition, _Round())
        effects, agenda = Effects(), Agenda(view)
        self._forget_lanes(held, view, effects)
        if held.place is None and not 0 <= now_ms - held.began_ms < self.pause_ms:
            held.began_ms, held.place = now_ms, b""
            for name, start_ms in self._unknown(held, view):
                agenda.found(name, start_ms, now_ms)
        if held.place is not None:
            sweep = _Sweep(self.specs, view, now_ms, effects, agenda, self.rows_per_tick)
            self._look(held, sweep, view.table(PERIODS_TABLE))
        agenda.write(effects)
        effects.time_moved = bool(agenda.wanted)
        return effects

    def _look(self, held: _Round, sweep: _Sweep, periods: TableView) -> None:
        """Go on with the round: to the end of a slice, or to a period with work for this tick."""
        rows = list(periods.range(held.place or b"", None, limit=self.rows_per_tick))
        for key, _ in rows:
            held.place = key
            go_on_at = sweep.period(key, held.row)
            if go_on_at is not None:
                held.row = go_on_at
                return
            held.row = b""
        held.place = rows[-1][0] + b"\x00" if len(rows) == self.rows_per_tick else None

    def _forget_lanes(self, held: _Round, view: View, effects: Effects) -> None:
        # Marks are read at each event-time tick: none of them waits for a round.
        table = view.table(LANES_TABLE)
        rows = list(table.range(held.lane, None, limit=self.rows_per_tick))
        held.lane = rows[-1][0] + b"\x00" if len(rows) == self.rows_per_tick else b""
        gone = [key for key, mark in rows if lane_is_over(view, key, mark)]
        if gone:
            effects.deletes[LANES_TABLE] = gone
            effects.deletes[PROGRESS_TABLE] = [lane.encode() for lane in lanes_without(view, gone)]

    def _unknown(self, held: _Round, view: View) -> Iterator[tuple[str, int]]:
        """Periods with panes that nothing is known of: of a window that was declared anew.

        Their panes stay for another retention, and are then looked at one by one.
        """
        periods = view.table(PERIODS_TABLE)
        for spec in self.specs:
            table, start_ms = view.table(spec.name), held.found.get(spec.name, 0)
            for _ in range(self.rows_per_tick):
                row = next(iter(table.range(period_rows(start_ms)[0], None, limit=1)), None)
                if row is None:
                    start_ms = 0
                    break
                found_ms = row_period_ms(row[0])
                key, start_ms = period_key(spec.name, found_ms), found_ms + PERIOD_MS
                if periods.get(key) is None:
                    yield spec.name, found_ms
            held.found[spec.name] = start_ms


class _Sweep:
    """One tick's work on periods."""

    def __init__(
        self,
        specs: tuple[WindowSpec, ...],
        view: View,
        now_ms: int,
        effects: Effects,
        agenda: Agenda,
        rows: int,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._longest_ms = max((spec.retention_ms for spec in specs), default=0)
        self._view = view
        self._now_ms = now_ms
        self._effects = effects
        self._agenda = agenda
        self._rows = rows

    def period(self, key: bytes, row: bytes) -> bytes | None:
        """Where to go on with this period in the next tick; None: there is no more to do."""
        # The committed row may have changed since: ask for what the next batch would see.
        state = self._state(key)
        name, start_ms = parse_period_key(key)
        spec = self._specs.get(name)
        kept_ms = self._longest_ms if spec is None else spec.retention_ms
        if state is None or state.updated_ms >= self._now_ms - kept_ms:
            return None
        if spec is not None:
            lo, hi = period_rows(start_ms)
            if any(self._view.table(name).range(lo, hi, limit=1)):
                return self._panes(spec, start_ms, max(lo, row), hi)
        if (
            state.timers
            or state.written_ms >= self._now_ms - self._longest_ms
            or (spec is not None and self._is_reached(spec, start_ms))
        ):
            return None
        lo, hi = finals_of_period(name, start_ms)
        if any(self._view.table(FINALS_TABLE).range(lo, hi, limit=1)):
            self._effects.drops.setdefault(FINALS_TABLE, []).append((lo, hi))
            return b""
        self._effects.deletes.setdefault(PERIODS_TABLE, []).append(key)
        return None

    def _state(self, key: bytes) -> Period | None:
        state: Period | None = self._view.table(PERIODS_TABLE).get(key)
        return state

    def _panes(self, spec: WindowSpec, start_ms: int, lo: bytes, hi: bytes) -> bytes | None:
        """Drop the panes of a period if all windows that hold any were written as they are."""
        if spec.closes:
            first_ms = spec.first_start_ms(start_ms)
            known = list(self._agenda.periods(spec.name, first_ms, start_ms + 1))
            if any(period.lapsed for period in known):
                return self._one_by_one(spec, lo, hi)
            if any(period.timers for period in known):
                return None
        self._effects.drops[spec.name] = [(lo, hi)]
        return b""

    def _is_reached(self, spec: WindowSpec, start_ms: int) -> bool:
        """Whether a pane is left that a window of the period may hold."""
        last_ms = start_ms + PERIOD_MS - 1 + spec.size_ms - 1
        lo, hi = period_rows(start_ms)[0], period_rows(last_ms)[1]
        return any(self._view.table(spec.name).range(lo, hi, limit=1))

    def _one_by_one(self, spec: WindowSpec, lo: bytes, hi: bytes) -> bytes | None:
        table = self._view.table(spec.name)
        rows = [key for key, _ in table.range(lo, hi, limit=self._rows)]
        gone = [row for row in rows if self._is_written(spec, row, table.get(row))]
        if gone:
            self._effects.deletes[spec.name] = gone
        return rows[-1] + b"\x00" if len(rows) == self._rows else None

    def _is_written(self, spec: WindowSpec, row: bytes, state: WindowStats | None) -> bool:
        """Whether the last window that holds the pane, which begins with it, was written."""
        if state is None or not state.count:
            return True
        key, start_ms = parse_row_key(row)
        named = final_key(spec.name, key, start_ms)
        written: Written | None = self._view.table(FINALS_TABLE).get(named)
        if written and written.meaning == spec.identity and written.count >= state.count:
            return True
        if written and written.may_miss_panes(spec, self._now_ms):
            return True  # it is not written again, whatever came for it
        # Its timer is set, unless the window was not declared when that was due.
        self._agenda.set(LIVE, spec.due_ms(start_ms), (spec.name, key, start_ms))
        return False
