"""What time does to sessions: it closes them, and in the end removes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agents.sessions.merge import effects_of
from app.engine.effects import Effects, View
from tables.agenda import Agenda
from tables.lanes import LANES_TABLE, lanes_without
from tables.progress import PROGRESS_TABLE
from tables.sessions.closing import Change, kept_sessions, parse_payload
from tables.sessions.rows import EMPTY, UserSessions
from tables.sessions.spec import SessionSpec
from tables.sessions.stats import STATS_TABLE, StatsChange, hour_of
from tables.sessions.times import session_times
from tables.timers import TIMERS_TABLE, Timer, lane_is_over

FIRED_MAX = 500
"""Timers one tick fires: about 10 ms of work, so that no tick stalls the event loop."""
SWEEP_ROWS = 100
"""Rows one tick looks at per table."""


@dataclass(frozen=True)
class ClosingTick:
    """Event-time tick of ``session-partials``: closes sessions whose lanes have gone beyond them.

    What is closed, changed or set again is decided by the row as it stands, not by the timer.
    """

    specs: tuple[SessionSpec, ...]
    fired_max: int = FIRED_MAX

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG002 - the contract's signature
        """Closed sessions, their sums, and timers set again or removed."""
        times, agenda = session_times(view, now_ms), Agenda(view)
        fired: list[Timer] = []
        unfinished = False
        for lane in sorted(times.watermarks):
            if len(fired) < self.fired_max:
                due = agenda.due(lane, times, self.fired_max - len(fired))
                agenda.done(lane, due.timers, due.upto_ms)
                fired += due.timers
                unfinished |= not due.whole
        kinds = {spec.fingerprint: spec for spec in self.specs}
        change = Change(StatsChange(now_ms))
        for fingerprint, user in dict.fromkeys(parse_payload(timer.payload) for timer in fired):
            spec = kinds.get(fingerprint)  # None: it was declared otherwise when it was set
            row = None if spec is None else view.table(spec.table_name).get(user)
            if spec is not None and row is not None:
                change.fire(spec, user, row, times)
        effects = effects_of(change, agenda)
        if fired:
            # Set again means later: what fired was due, and what is set again is not.
            effects.deletes[TIMERS_TABLE] = [timer.key() for timer in fired]
        effects.time_moved |= unfinished
        return effects


@dataclass(slots=True)
class RetentionTick:
    """Wall-clock tick of ``session-partials``: removes what has been kept for its retention.

    Each tick looks at the next rows of each table and starts over at the end. Where it
    stands is a hint kept in memory; it decides when a row is looked at, never whether it
    goes. It also asks for the event-time tick when silence alone has made a timer due.
    """

    specs: tuple[SessionSpec, ...]
    rows_per_tick: int = SWEEP_ROWS
    _next: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Rows without the sessions that leave; deletes of those that are empty."""
        times, agenda = session_times(view, now_ms), Agenda(view)
        change = Change(StatsChange(now_ms))
        deletes: dict[str, list[bytes]] = {}
        for spec in self.specs:
            table, gone = view.table(spec.table_name), []
            for user, seen in self._slice(partition, view, spec.table_name):
                if kept_sessions(spec, seen, times, now_ms) == seen.sessions:
                    continue
                # A committed row may have changed since: decide by what the next batch sees.
                row: UserSessions = table.get(user) or EMPTY
                kept = kept_sessions(spec, row, times, now_ms)
                if not kept:
                    gone.append(user)
                elif len(kept) < len(row.sessions):
                    change.keep(spec, user, row, kept)
            if gone:
                deletes[spec.table_name] = gone
        expired = self._expired_stats(partition, view, now_ms)
        if expired:
            deletes[STATS_TABLE] = expired
        lanes = [
            key
            for key, mark in self._slice(partition, view, LANES_TABLE)
            if lane_is_over(view, key, mark)
        ]
        if lanes:
            deletes[LANES_TABLE] = lanes
            deletes[PROGRESS_TABLE] = [lane.encode() for lane in lanes_without(view, lanes)]
        effects = effects_of(change, Agenda(view))
        effects.deletes = deletes
        effects.time_moved = not all(agenda.due(lane, times, 1).whole for lane in times.watermarks)
        return effects

    def _expired_stats(self, partition: int, view: View, now_ms: int) -> list[bytes]:
        """Hours whose sums have not changed for long, and the counts of former declarations."""
        ages = {spec.fingerprint: spec.analytics_retention_ms for spec in self.specs}
        longest = max(ages.values(), default=0)
        table, found = view.table(STATS_TABLE), []
        for key, seen in self._slice(partition, view, STATS_TABLE):
            oldest_ms = now_ms - ages.get(key[:8], longest)
            counts_open = hour_of(key) is None and key in ages
            if seen.updated_ms <= oldest_ms and not counts_open:
                stats = table.get(key)
                if stats is not None and stats.updated_ms <= oldest_ms:
                    found.append(key)
        return found

    def _slice(self, partition: int, view: View, name: str) -> Iterator[tuple[bytes, Any]]:
        """The next committed rows of a table."""
        begin = self._next.get((partition, name), b"")
        rows = list(view.table(name).range(begin, None, limit=self.rows_per_tick))
        full = len(rows) == self.rows_per_tick
        self._next[partition, name] = rows[-1][0] + b"\x00" if full else b""
        return iter(rows)
