"""Wall-clock pacing shared by the collectors that run inside the worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from app.engine.clock import Clock

Sleep = Callable[[float], Awaitable[None]]
"""``asyncio.sleep``, or a test's own."""


class Pace:
    """Wakes at whole multiples of an interval, so that delays do not add up."""

    def __init__(self, interval_ms: int, clock: Clock, sleep: Sleep) -> None:
        self._interval_ms = interval_ms
        self._clock = clock
        self._sleep = sleep

    async def next(self) -> int:
        """Sleep to the next multiple; its time in epoch milliseconds. Missed ones are skipped."""
        due = (self._clock.now_ms() // self._interval_ms + 1) * self._interval_ms
        while (left := due - self._clock.now_ms()) > 0:
            await self._sleep(left / 1_000)
        return due
