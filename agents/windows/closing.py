"""Event-time tick of ``window-partials``: writes each window once it is final."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.topics import LOG_EVENTS, WINDOW_PARTIALS, WINDOWS_FINAL
from agents.windows.agenda import Agenda, Window, window_of
from app.engine.effects import Effects, Output, View
from tables.lanes import EVERY, LaneTimes, lane_of, lane_times
from tables.timers import TIMERS_TABLE, Timer
from tables.windows.compose import merged
from tables.windows.finals import (
    FINALS_TABLE,
    Written,
    encode_record,
    final_key,
    window_record,
    written_as,
)
from tables.windows.keys import row_key
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats

CLOSED_MAX = 500
"""Windows one tick closes: some 30 ms of work, so that no tick stalls the event loop."""


@dataclass(frozen=True)
class ClosingTick:
    """Closes the windows that every lane which fed them has gone beyond.

    A timer says which window to look at; whether it is final, and whether it says anything
    new, is decided by its panes as they stand. So a timer may be set twice, or for nothing.

    A window of which a pane may have expired is not written again: of what is left, its record
    would say less than the one before. What came for it counts in the windows after it.
    """

    specs: tuple[WindowSpec, ...]
    closed_max: int = CLOSED_MAX
    _by_name: dict[str, WindowSpec] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        closing = {spec.name: spec for spec in self.specs if spec.closes}
        object.__setattr__(self, "_by_name", closing)

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Final records, their revisions, and the timers of what comes next."""
        times = lane_times(view, LOG_EVENTS)
        agenda = Agenda(view)
        closing = _Closing(self._by_name, view, times, agenda, self.closed_max, now_ms)
        fired: list[bytes] = []
        for lane in sorted(times.watermarks):
            due = agenda.due(lane, times, self.closed_max)
            done: list[Timer] = []
            for timer in due.timers:
                if closing.left == 0:
                    break
                closing.fire(timer)
                done.append(timer)
            every = len(done) == len(due.timers)
            last = done[-1].due_ms if done else -1
            agenda.done(lane, done, due.upto_ms if every else last)
            closing.unfinished |= not (every and due.whole)
            fired += [timer.key() for timer in done]
        return closing.effects(fired, partition)


class _Final(NamedTuple):
    """A window's state that is to be written."""

    spec: WindowSpec
    stats: WindowStats
    revision: int
    oldest_ms: int


class _Closing:
    """One tick's work. ``left``: windows it may still close."""

    def __init__(
        self,
        specs: Mapping[str, WindowSpec],
        view: View,
        times: LaneTimes,
        agenda: Agenda,
        left: int,
        now_ms: int,
    ) -> None:
        self._specs = specs
        self._view = view
        self._times = times
        self._agenda = agenda
        self._now_ms = now_ms
        self._finals: dict[Window, _Final] = {}
        self._seen: set[Window] = set()
        self.left = left
        self.unfinished = False

    def fire(self, timer: Timer) -> None:
        """Close the timer's window, if it is final, and those after it that share its panes."""
        name, key, start_ms = window_of(timer.payload)
        spec = self._specs.get(name)  # None: it is no longer declared
        self._agenda.fired((name, key, start_ms), declared=spec is not None)
        if spec is None:
            return
        reach_ms = spec.size_ms - spec.advance_ms
        last_ms = start_ms + reach_ms  # it shares a pane with the first
        while (name, key, start_ms) not in self._seen:
            written: Written | None = self._view.table(FINALS_TABLE).get(
                final_key(name, key, start_ms)
            )
            if written and written.may_miss_panes(spec, self._now_ms):
                if start_ms >= last_ms:
                    return
            elif self._close(spec, key, start_ms, written, timer.lane):
                last_ms = start_ms + reach_ms  # the next timer of these windows stops at this one
            else:
                return
            start_ms += spec.advance_ms

    def _close(
        self, spec: WindowSpec, key: str, start_ms: int, written: Written | None, lane: str
    ) -> bool:
        """Whether the window was closed anew, so that the next one is to be looked at."""
        window = (spec.name, key, start_ms)
        panes = self._panes(spec, key, start_ms)
        if not panes:
            return False
        due_ms = spec.due_ms(start_ms)
        behind = self._behind(panes, due_ms)
        if behind is not None:
            self._agenda.set(behind, due_ms, window)
            return False
        if self.left == 0:
            self._agenda.set(lane, due_ms, window)
            self.unfinished = True
            return False
        self.left -= 1
        self._seen.add(window)
        stats = merged(panes)
        # Panes only grow: with no event more, there is nothing new to say.
        if written and written.meaning == spec.identity and stats.count <= written.count:
            return False
        oldest_ms = min(pane.updated_ms for pane in panes)
        revision = written.revision + 1 if written else 1
        self._finals[window] = _Final(spec, stats, revision, oldest_ms)
        return True

    def _panes(self, spec: WindowSpec, key: str, start_ms: int) -> list[WindowStats]:
        """The window's panes that have events, as the open epoch knows them."""
        table = self._view.table(spec.name)
        starts = range(start_ms, start_ms + spec.size_ms, spec.advance_ms)
        rows = (table.get(row_key(key, start)) for start in starts)
        return [row for row in rows if row is not None and row.count]

    def _behind(self, panes: list[WindowStats], due_ms: int) -> str | None:
        """The lane that fed the panes and has furthest to go to ``due_ms``; None: all are there."""
        times = self._times
        if any(pane.lanes == EVERY for pane in panes):
            lanes = set(times.watermarks)
        else:
            lanes = {lane_of(lane) for pane in panes for lane in pane.lanes}
        last = min(lanes, key=lambda lane: (times.of_lane(lane), lane), default=None)
        return last if last is not None and times.of_lane(last) < due_ms else None

    def effects(self, fired: list[bytes], partition: int) -> Effects:
        """What the tick decided."""
        effects = Effects(time_moved=self.unfinished)
        origin = (("origin", f"{WINDOW_PARTIALS}/{partition}".encode()),)
        revisions: dict[bytes, Written] = {}
        for (name, key, start_ms), (spec, stats, revision, oldest_ms) in self._finals.items():
            record = window_record(spec, key, start_ms, stats, revision, final=True)
            named = f"{name}/{key}".encode()
            effects.outputs.append(Output(WINDOWS_FINAL, named, encode_record(record), origin))
            revisions[final_key(name, key, start_ms)] = written_as(
                spec, stats, record, self._now_ms, oldest_ms
            )
            self._agenda.touched(name, start_ms, written_ms=self._now_ms)
        if revisions:
            effects.updates[FINALS_TABLE] = {**revisions}
        self._agenda.write(effects)
        if fired:
            effects.deletes[TIMERS_TABLE] = fired
        return effects
