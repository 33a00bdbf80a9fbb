"""Finals: no window and no session is written twice in one revision. Pure.

The auditor remembers the ids of the time in which none may come again, and of those a
bounded number.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from agents.topics import WINDOWS_FINAL
from tables.windows.spec import duration_text

IDS_MAX: Final = 1_500_000
"""Ids remembered in all partitions together (about 30 MB).

At 20,000 events per second windows over 1,000 endpoints make 1.4 million within the twelve hours
in which none may come again. Sessions may make as many in a quarter of an hour, and a hundred
times as many in their day: what is written twice after a failure comes again within minutes.
"""
BLOCKS: Final = 32
"""Of a partition's ids: one that is being filled, the others packed."""
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


@dataclass(frozen=True, slots=True)
class _Block:
    """Ids that came one after the other: sorted, and when each came (epoch s)."""

    names: array[int]
    times_s: array[int]
    newest_ms: int

    def time_s(self, name: int) -> int | None:
        """When it came; None: it did not."""
        at = bisect_left(self.names, name)
        there = at < len(self.names) and self.names[at] == name
        return self.times_s[at] if there else None


class FinalsBook:
    """Ids of one partition of ``windows-final`` or ``sessions-closed``, the newest of them.

    A final's key decides its partition, so one written twice is twice in the same.
    """

    def __init__(self, topic: str, unique_ms: int, most: int) -> None:
        """``unique_ms``: how long an id may not come again; ``most`` ids are remembered."""
        self.twice = self.foreign = 0
        self._topic = topic
        self._unique_ms = unique_ms
        self._most = most
        self._block_size = max(1, most // BLOCKS)
        self._recent: dict[int, int] = {}
        self._blocks: deque[_Block] = deque()
        self._newest_ms = 0
        self._gone_ms: int | None = None
        """Ids that came later than this are all remembered; None: all ids are."""

    def add(self, records: Iterable[tuple[bytes | None, int]]) -> None:
        """Take in values and the times they were appended (epoch ms), in order."""
        for value, at_ms in records:
            while self._blocks and at_ms - self._blocks[0].newest_ms >= self._unique_ms:
                self._blocks.popleft()
            name = final_name(self._topic, value)
            if name is None:
                self.foreign += 1
                continue
            if self._came_before(name, at_ms):
                self.twice += 1
                continue
            self._recent[name] = at_ms // 1_000
            self._newest_ms = max(self._newest_ms, at_ms)
            if len(self._recent) == self._block_size:
                self._seal()

    def __len__(self) -> int:
        """Ids remembered."""
        return len(self._recent) + sum(len(block.names) for block in self._blocks)

    @property
    def forgotten(self) -> bool:
        """Whether ids are no longer known that may not come again yet."""
        gone_ms = self._gone_ms
        return gone_ms is not None and self._newest_ms - gone_ms < self._unique_ms

    def note(self) -> str:
        """What that means to who reads the report."""
        kept_ms = self._newest_ms - (self._gone_ms or 0)
        return (
            f"finals come faster than they can be remembered ({self._most} of them): one that is "
            f"written twice is noticed if it comes again within {max(1, kept_ms // 60_000)} min, "
            f"not within {duration_text(self._unique_ms)}; nothing that was read is wrong"
        )

    def _came_before(self, name: int, at_ms: int) -> bool:
        """Whether it came less than ``unique_ms`` ago."""
        times = [self._recent.get(name), *(block.time_s(name) for block in self._blocks)]
        return any(at is not None and at_ms - at * 1_000 < self._unique_ms for at in times)

    def _seal(self) -> None:
        ids = sorted(self._recent.items())
        names, times_s = array("q", [n for n, _ in ids]), array("q", [s for _, s in ids])
        self._blocks.append(_Block(names, times_s, self._newest_ms))
        self._recent = {}
        while len(self) + self._block_size > self._most:
            self._gone_ms = self._blocks.popleft().newest_ms
