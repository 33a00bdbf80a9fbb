"""Token bucket with an injected clock: how many events may come in, and when."""

from __future__ import annotations

from dataclasses import dataclass

WAIT_MS_MAX = 100


@dataclass(frozen=True, slots=True)
class Admission:
    """``admitted``: go on after ``wait_ms``. Otherwise: come back after ``wait_ms``."""

    admitted: bool
    wait_ms: int


class TokenBucket:
    """``rate`` events per second, bursts of one second's worth.

    A request that would have to wait longer than :data:`WAIT_MS_MAX` is refused and takes
    nothing. A full bucket admits a request of any size and then owes the difference, so
    that a batch larger than the burst is not refused for ever. Over any ``t`` seconds at
    most ``rate * (t + 1.1)`` events plus one such batch pass. A clock that goes back
    gives no tokens.
    """

    def __init__(self, rate: int, now_ms: int) -> None:
        self._rate = rate
        self._full = rate * 1000
        self._level = self._full
        self._at_ms = now_ms

    def take(self, events: int, now_ms: int) -> Admission:
        """Decide about ``events`` events at ``now_ms``. Levels are in thousandths of an event."""
        elapsed_ms = max(0, now_ms - self._at_ms)
        self._at_ms = now_ms
        self._level = min(self._full, self._level + elapsed_ms * self._rate)
        after = self._level - events * 1000
        wait_ms = -(after // self._rate) if after < 0 else 0
        if wait_ms > WAIT_MS_MAX and self._level < self._full:
            return Admission(admitted=False, wait_ms=wait_ms - WAIT_MS_MAX)
        self._level = after
        return Admission(admitted=True, wait_ms=min(wait_ms, WAIT_MS_MAX))
