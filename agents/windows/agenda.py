"""Timers of windows: each closes one window of one key, and is set on a lane that fed it."""

from __future__ import annotations

import msgspec

from app.engine.effects import View
from tables.lanes import LaneTimes
from tables.timers import DUE_MAX, TIMERS_TABLE, Timer, parse_timer
from tables.windows.keys import parse_row_key, row_key
from tables.windows.progress import PROGRESS_TABLE, Progress

Window = tuple[str, str, int]
"""Name, key, start (epoch ms)."""


def payload_of(window: Window) -> bytes:
    """Payload of the timer that closes the window; names hold no NUL."""
    name, key, start_ms = window
    return name.encode() + b"\0" + row_key(key, start_ms)


def window_of(payload: bytes) -> Window:
    """Inverse of :func:`payload_of`; raises :class:`ValueError` on anything else."""
    name, _, row = payload.partition(b"\0")
    key, start_ms = parse_row_key(row)
    return name.decode(), key, start_ms


class Agenda:
    """What a step or a tick does to the timers of its partition."""

    def __init__(self, view: View) -> None:
        self._timers = view.table(TIMERS_TABLE)
        self._table = view.table(PROGRESS_TABLE)
        self._before: dict[str, Progress] = {}
        self._now: dict[str, Progress] = {}
        self.wanted: dict[bytes, bool] = {}
        """the update of the table of timers"""

    def progress(self, lane: str) -> Progress:
        """How far the lane's timers are done."""
        held = self._now.get(lane)
        if held is None:
            held = self._table.get(lane.encode()) or Progress()
            self._before[lane] = self._now[lane] = held
        return held

    def set(self, lane: str, due_ms: int, window: Window) -> None:
        """Have the window closed once the lane has come to ``due_ms``."""
        key = Timer(lane, due_ms, payload_of(window)).key()
        if key not in self.wanted and self._timers.get(key) is None:
            self.wanted[key] = True
            self._now[lane] = self.progress(lane).after_set(due_ms)

    def due(self, lane: str, times: LaneTimes, limit: int) -> list[Timer]:
        """Due timers of a lane in order of time, at most ``limit``.

        Those set in the open epoch are not among them: the tick of the next one sees them.
        """
        lo = Timer(lane, self.progress(lane).pending_ms, b"").key()
        hi = Timer(lane, times.of_lane(lane) + 1, b"").key()
        found = self._timers.range(lo, hi, limit=limit)
        return [parse_timer(key) for key, _ in found if self._timers.get(key) is not None]

    def done(self, lane: str, fired: list[Timer], upto_ms: int) -> None:
        """All due timers of the lane up to ``upto_ms`` have fired, ``fired`` among them."""
        last = fired[-1].due_ms if fired else -1
        self._now[lane] = self.progress(lane).after_scan(last, min(upto_ms, DUE_MAX))

    def changes(self) -> dict[bytes, Progress]:
        """The update of the table of progress."""
        return {
            lane.encode(): msgspec.structs.replace(now, number=now.number + 1)
            for lane, now in self._now.items()
            if now != self._before[lane]
        }
