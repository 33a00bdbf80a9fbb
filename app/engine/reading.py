"""Up to when a partition has been read: whether silence is silence, or only not yet heard. Pure.

A source of time that says nothing is idle only if nothing it said waits to be read. The lag at
one moment does not tell: under traffic there is always some. So the end of the log is noted,
and once everything before it was worked on, all that was appended up to then was read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

HEARD_GAP_MS = 10_000
"""A broker that answers less often than this was not listened to in between."""
NEVER_MS = -1


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Next offset after everything appended, committed or not, as the broker's last answer said.

    ``answer`` is another number with each answer.
    """

    offset: int
    answer: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What was appended to a partition from ``since_ms`` to ``upto_ms`` (epoch ms) was worked on.

    ``since_ms`` is when the task started, or when the broker was heard of again; while
    ``upto_ms`` is less, nothing since then is known to be read. ``end`` is the end of the log
    at ``end_ms`` that is to be reached next; the broker's last ``answer`` came by ``heard_ms``.
    """

    since_ms: int = NEVER_MS
    upto_ms: int = NEVER_MS
    heard_ms: int = NEVER_MS
    answer: int | None = None
    end: int = 0
    end_ms: int = NEVER_MS

    def looked(self, position: int, end: LogEnd | None, now_ms: int) -> Reading:
        """After a look at ``now_ms``: everything before ``position`` has been worked on.

        ``end`` is None while the broker has not answered.
        """
        found = _reached(self, position)
        if end is None or end.answer == self.answer:
            return found
        unheard = self.answer is None or now_ms - self.heard_ms > HEARD_GAP_MS
        # The answer came after the look before: what was appended since then it may not know.
        at_ms = now_ms if unheard else self.heard_ms
        since_ms = now_ms if unheard else self.since_ms
        found = replace(found, since_ms=since_ms, heard_ms=now_ms, answer=end.answer)
        if found.end_ms > found.upto_ms:
            return found  # what was noted before is yet to be reached
        return _reached(replace(found, end=end.offset, end_ms=at_ms), position)


def _reached(reading: Reading, position: int) -> Reading:
    if position < reading.end or reading.end_ms <= reading.upto_ms:
        return reading
    return replace(reading, upto_ms=reading.end_ms)
