"""Timers of windows: each closes one window of one key, and is set on a lane that fed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.engine.effects import Effects, View
from tables import agenda
from tables.progress import PROGRESS_TABLE
from tables.timers import TIMERS_TABLE, Timer
from tables.windows.keys import PERIOD_MS, parse_timed_key, period_of, timed_key
from tables.windows.periods import PERIODS_TABLE, Period, Periods, period_key, rounded_up

Window = tuple[str, str, int]
"""Name, key, start (epoch ms)."""

_PERIODS = Periods()


def payload_of(window: Window) -> bytes:
    """Payload of the timer that closes the window; names hold no NUL."""
    name, key, start_ms = window
    return name.encode() + b"\0" + timed_key(key, start_ms)


def window_of(payload: bytes) -> Window:
    """Inverse of :func:`payload_of`; raises :class:`ValueError` on anything else."""
    name, _, row = payload.partition(b"\0")
    key, start_ms = parse_timed_key(row)
    return name.decode(), key, start_ms


class Agenda(agenda.Agenda):
    """What a step or a tick does to the timers of its partition's windows, and to their periods."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._periods = view.table(PERIODS_TABLE)
        self._period_changes: dict[bytes, Period] = {}

    def set(self, lane: str, due_ms: int, window: Window) -> None:
        """Have the window closed once the lane has come to ``due_ms``."""
        timer = Timer(lane, due_ms, payload_of(window))
        if not self.is_set(timer):
            self.put(timer)
            self._change(window[0], window[2], Period(timers=1))

    def fired(self, window: Window, *, declared: bool) -> None:
        """A timer of the window has fired, and is deleted with this."""
        self._change(window[0], window[2], Period(timers=-1, lapsed=not declared))

    def touched(
        self, name: str, start_ms: int, *, updated_ms: int = 0, written_ms: int = 0
    ) -> None:
        """Panes, or windows, of the period of ``start_ms`` were updated or written by then."""
        change = Period(rounded_up(updated_ms), rounded_up(written_ms))
        held: Period | None = self._periods.get(period_key(name, start_ms))
        if held is None or (
            held.updated_ms < change.updated_ms or held.written_ms < change.written_ms
        ):
            self._change(name, start_ms, change)

    def found(self, name: str, start_ms: int, now_ms: int) -> None:
        """A period has panes, and nothing is known of it."""
        now_ms = rounded_up(now_ms)
        self._change(name, start_ms, Period(now_ms, now_ms, lapsed=True))

    def _change(self, name: str, start_ms: int, change: Period) -> None:
        key = period_key(name, start_ms)
        held = self._period_changes.get(key)
        self._period_changes[key] = change if held is None else _PERIODS.merge(held, change)

    def periods(self, name: str, from_ms: int, to_ms: int) -> Iterator[Period]:
        """What is known of each period that has starts in the range."""
        for start_ms in range(period_of(from_ms), to_ms, PERIOD_MS):
            period: Period | None = self._periods.get(period_key(name, start_ms))
            if period is not None:
                yield period

    def write(self, effects: Effects) -> None:
        """Add the updates of timers, progress and periods to a step's or tick's answer."""
        updates: dict[str, dict[bytes, Any]] = {
            TIMERS_TABLE: {**self.wanted},
            PROGRESS_TABLE: {**self.changes()},
            PERIODS_TABLE: {**self._period_changes},
        }
        effects.updates |= {name: changes for name, changes in updates.items() if changes}
