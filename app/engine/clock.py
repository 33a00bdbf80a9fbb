"""The only place that reads a clock; everything else is given one."""

from __future__ import annotations

import logging
import time
from typing import Protocol

logger = logging.getLogger(__name__)

JUMP_MS = 2_000
"""The wall clock has jumped when it parts by more from the monotonic one between two looks."""
SETTLE_S = 60.0
"""How long a jump must last before it is believed."""


class Clock(Protocol):
    """Wall clock for event time, monotonic clock for durations."""

    def now_ms(self) -> int:
        """Epoch milliseconds, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Epoch milliseconds, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class SteadyClock:
    """A clock whose wall time takes no notice of a jump before it has lasted.

    Whoever sets a clock wrong for a while, or a time server that does, would make every lane
    idle and every row expired at once, and what has been seen would lie in the future when
    the clock is put right. Small corrections are followed as they come. A machine that slept
    has jumped as well: for it, time goes on where it stood, for :data:`SETTLE_S`.

    Not for what compares with other machines: it may be wrong for that long.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms = self._seen_ms = self._wall_ahead_ms()
        self._jumped_at_s = clock.monotonic()

    def now_ms(self) -> int:
        """Epoch milliseconds, UTC, but for a jump that has not lasted."""
        ahead_ms, now_s = self._wall_ahead_ms(), self._clock.monotonic()
        if abs(ahead_ms - self._seen_ms) > JUMP_MS:
            self._jumped_at_s = now_s
            logger.warning(
                "the clock jumped by %.1f s; if it stays there, it is followed in %.0f s: "
                "check the machine's time service",
                (ahead_ms - self._seen_ms) / 1000,
                SETTLE_S,
            )
        self._seen_ms = ahead_ms
        near = abs(ahead_ms - self._ahead_ms) <= JUMP_MS
        if near or now_s - self._jumped_at_s >= SETTLE_S:
            self._ahead_ms = ahead_ms
        return int(now_s * 1000) + self._ahead_ms

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._clock.monotonic()

    def _wall_ahead_ms(self) -> int:
        return self._clock.now_ms() - int(self._clock.monotonic() * 1000)
