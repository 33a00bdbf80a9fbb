"""Timers of windows: each closes one window of one key, and is set on a lane that fed it."""

from __future__ import annotations

from tables import agenda
from tables.timers import Timer
from tables.windows.keys import parse_row_key, row_key

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


class Agenda(agenda.Agenda):
    """What a step or a tick does to the timers of its partition's windows."""

    def set(self, lane: str, due_ms: int, window: Window) -> None:
        """Have the window closed once the lane has come to ``due_ms``."""
        timer = Timer(lane, due_ms, payload_of(window))
        if not self.is_set(timer):
            self.put(timer)
