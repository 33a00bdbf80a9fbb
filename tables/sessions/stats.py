"""Analytics of closed sessions: sums by hour of their start, corrected when they are revised."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from struct import Struct

import msgspec

from app.engine.effects import TableSpec
from tables.packed import Packed
from tables.sessions.state import Closed

STATS_TABLE = "session_stats"
HOUR_MS = 3_600_000

_START = Struct(">Q")


class SessionStats(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """Sums over sessions; a correction takes away what it replaces, so partials may be negative.

    ``reached[i]`` of them took at least the first ``i + 1`` steps of the funnel.
    ``updated_ms`` is when it last changed, from which retention counts.
    """

    sessions: int = 0
    events: int = 0
    pages: int = 0
    duration_ms: int = 0
    reached: tuple[int, ...] = ()
    updated_ms: int = 0


def merge_stats(left: SessionStats, right: SessionStats) -> SessionStats:
    """Sum of both."""
    return SessionStats(
        left.sessions + right.sessions,
        left.events + right.events,
        left.pages + right.pages,
        left.duration_ms + right.duration_ms,
        tuple(a + b for a, b in zip_longest(left.reached, right.reached, fillvalue=0)),
        max(left.updated_ms, right.updated_ms),
    )


def contribution(said: Closed, sign: int, now_ms: int) -> SessionStats:
    """What a closed session adds (``sign`` 1) or what it had added (-1)."""
    return SessionStats(
        sign,
        sign * said.count,
        sign * said.pages,
        sign * (said.end - said.start),
        (sign,) * said.depth,
        now_ms,
    )


class StatsRows(Packed[SessionStats]):
    """Sums as the engine keeps them."""

    kind = SessionStats

    def merge(self, left: SessionStats, right: SessionStats) -> SessionStats:
        """Sum of both."""
        return merge_stats(left, right)


def stats_table() -> TableSpec:
    """The table of sums, one for all kinds of session."""
    return TableSpec(STATS_TABLE, "session-stats-1", StatsRows())


def hour_key(fingerprint: bytes, at_ms: int) -> bytes:
    """Row key of the hour that holds a time: fingerprint of the kind, start of the hour."""
    return fingerprint + _START.pack(at_ms - at_ms % HOUR_MS)


def hour_of(key: bytes) -> int | None:
    """Start of the hour of a row key (epoch ms); None for the row of the open sessions."""
    return None if len(key) == _START.size else int(_START.unpack_from(key, len(key) - 8)[0])


def open_key(fingerprint: bytes) -> bytes:
    """Row key under which ``sessions`` counts those not closed, or changed since they were."""
    return fingerprint


class StatsChange:
    """Changes of the sums that one batch or tick makes, summed up."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self.rows: dict[bytes, SessionStats] = {}

    def closed(self, fingerprint: bytes, now: Closed, before: Iterable[Closed]) -> None:
        """A session was closed; ``before``: what had been said of its parts."""
        for said in before:
            self._add(hour_key(fingerprint, said.start), contribution(said, -1, self._now_ms))
        self._add(hour_key(fingerprint, now.start), contribution(now, 1, self._now_ms))

    def opened(self, fingerprint: bytes, number: int) -> None:
        """So many more sessions are open (fewer, if negative)."""
        if number:
            self._add(open_key(fingerprint), SessionStats(number, updated_ms=self._now_ms))

    def _add(self, key: bytes, part: SessionStats) -> None:
        held = self.rows.get(key)
        self.rows[key] = part if held is None else merge_stats(held, part)
