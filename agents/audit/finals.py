"""Finals: no window and no session is written twice in one revision. Pure.

The auditor remembers the ids of the time in which none may come again, and of those a
bounded number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from agents.topics import WINDOWS_FINAL

IDS_MAX: Final = 200_000
"""Ids remembered in all partitions together (about 30 MB)."""
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Final(msgspec.Struct, gc=False):
    name: str
    key: str
    start: int
    revision: int


class _ClosedSession(msgspec.Struct, gc=False):
    id: str
    revision: int


_read_final = msgspec.json.Decoder(_Final).decode
_read_closed = msgspec.json.Decoder(_ClosedSession).decode


def final_name(topic: str, value: bytes | None) -> int | None:
    """64-bit hash of what a final record must be the only one of; None: it is no such record."""
    try:
        if topic == WINDOWS_FINAL:
            final = _read_final(value or b"")
            return hash((final.name, final.key, final.start, final.revision))
        closed = _read_closed(value or b"")
    except _DECODE_ERRORS:
        return None
    return hash((closed.id, closed.revision))


class FinalsBook:
    """Ids of one partition of ``windows-final`` or ``sessions-closed``, the newest of them.

    A final's key decides its partition, so one written twice is twice in the same.
    """

    def __init__(self, topic: str, unique_ms: int, most: int) -> None:
        """``unique_ms``: how long an id may not come again; ``most`` ids are remembered."""
        self.twice = self.foreign = 0
        self.forgotten = False
        self._topic = topic
        self._unique_ms = unique_ms
        self._most = most
        self._seen: set[int] = set()
        self._order: deque[tuple[int, int]] = deque()

    def add(self, records: Iterable[tuple[bytes | None, int]]) -> None:
        """Take in values and the times they were appended (epoch ms), in order."""
        order, seen = self._order, self._seen
        for value, at_ms in records:
            while order and at_ms - order[0][1] >= self._unique_ms:
                self._forget()
            name = final_name(self._topic, value)
            if name is None:
                self.foreign += 1
                continue
            if name in seen:
                self.twice += 1
                continue
            if len(order) == self._most:
                self.forgotten = True
                self._forget()
            seen.add(name)
            order.append((name, at_ms))

    def _forget(self) -> None:
        self._seen.discard(self._order.popleft()[0])
