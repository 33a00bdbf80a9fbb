"""What the auditor remembers of the topics: sums, and little else. Pure.

A *source* is read to its end but *settled* up to the group's committed offset: what lies
beyond is in flight, kept record by record (a bounded number) until the offset passes it.
Late records and dead letters are settled by the offset of the record they came from, so
at any committed offset both sides speak of exactly the same records.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agents.audit.facts import WINDOWS, Reading, Told, Vector, total
from agents.audit.finals import FinalsBook
from agents.audit.marks import Origin
from agents.audit.since import EVER, Since
from agents.topics import APPLICATION_LOGS, INFRASTRUCTURE_METRICS, LOG_EVENTS

PENDING_MAX: Final = 10_000
"""Records in flight kept per partition (about 2 MB); reading waits there for the group."""
MADE_WIDTH: Final = 2
"""Of what was made only number and checksum are kept."""
SHIPPED: Final = (APPLICATION_LOGS, INFRASTRUCTURE_METRICS)
ROWS_MAX: Final = 500_000
"""Rows of windows the auditor follows (about 60 MB); with more it leaves rows unchecked."""
TOLD_MAX: Final = 20
_LATE_BITS: Final = 40
SINCE_KEY: Final = b"\0since\0"

TopicPartition = tuple[str, int]


class SourceBook:
    """Sums of one partition that an agent reads."""

    def __init__(self, start: int, width: int, since: Since = EVER) -> None:
        """``start``: where its log began when the auditor came to it."""
        self.since = since
        self.start = self.next = self.cut = start
        self.settled = [0] * width
        self.first_ms: int | None = None
        self._pending: deque[tuple[int, Vector]] = deque()
        self._width = width

    @property
    def in_flight(self) -> int:
        """Records read beyond the settled offset."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether no more may be read until the group has come further."""
        return len(self._pending) >= PENDING_MAX

    def add(self, records: Sequence[tuple[int, Vector]], first_ms: int) -> None:
        """Take in records, ascending by offset."""
        if self.first_ms is None and records:
            self.first_ms = first_ms
        masked = self.since.masked
        counted = [(offset, masked(offset, vector)) for offset, vector in records]
        below = [vector for offset, vector in counted if offset < self.cut]
        self._sum(below)
        self._pending.extend(counted[len(below) :])

    def settle(self, offset: int) -> list[int]:
        """Sums of the records below ``offset``, which never goes back."""
        self.cut = max(self.cut, offset)
        pending, below = self._pending, []
        while pending and pending[0][0] < self.cut:
            below.append(pending.popleft()[1])
        self._sum(below)
        return list(self.settled)

    def _sum(self, vectors: Sequence[Vector]) -> None:
        if vectors:
            self.settled = total([self.settled, *vectors], self._width)


class SideBook:
    """What was made of one source partition's records (late records, dead letters, events).

    Settled by the offsets they came from.
    """

    def __init__(self, width: int, since: Since = EVER) -> None:
        self._since = since
        self.settled = [0] * width
        self._cut = 0
        self._pending: list[tuple[int, Vector]] = []
        self._width = width

    @property
    def full(self) -> bool:
        """Whether as many name an offset that the group has not passed as may be kept."""
        return len(self._pending) >= PENDING_MAX

    def add(self, offset: int, vector: Vector) -> None:
        """Take in the record made of the one at ``offset``."""
        vector = self._since.masked(offset, vector)
        if offset < self._cut:
            self.settled = total([self.settled, vector], self._width)
        else:
            self._pending.append((offset, vector))

    def settle(self, cut: int) -> list[int]:
        """Sums of those whose origin lies below ``cut``."""
        self._cut = max(self._cut, cut)
        below = [vector for offset, vector in self._pending if offset < self._cut]
        if below:
            self._pending = [each for each in self._pending if each[0] >= self._cut]
            self.settled = total([self.settled, *below], self._width)
        return list(self.settled)


class Order:
    """Within a partition of an output topic, a source's offsets ascend: a second one is seen."""

    def __init__(self) -> None:
        self._last: dict[tuple[TopicPartition, TopicPartition], int] = {}
        self.broken: dict[TopicPartition, int] = {}
        self.told: list[str] = []

    def see(self, where: TopicPartition, origin: Origin) -> None:
        """Take note of a record that lies in partition ``where``."""
        source = (origin.topic, origin.partition)
        last = self._last.get((where, source), -1)
        if origin.offset > last:
            self._last[where, source] = origin.offset
            return
        self.broken[source] = self.broken.get(source, 0) + 1
        if len(self.told) < TOLD_MAX:
            self.told.append(
                f"{where[0]}/{where[1]} has {origin.topic}/{origin.partition} offset "
                f"{origin.offset} twice or out of order"
            )


class RowsBook:
    """Rows of one changelog partition, as the last position record left them."""

    def __init__(self, reading: Reading) -> None:
        self.next = 0
        self.position: int | None = None
        self.settled = [0] * reading.width
        self.unknown = 0
        self.overflow = False
        self.since = [0] * len(reading.windows)
        """By window, the source offset from which its rows count, as of :attr:`position`."""
        self._since = list(self.since)
        self._reading = reading
        self._sums = [0] * reading.width
        self._rows: list[dict[int, int]] = [{} for _ in reading.windows]

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Take in a changelog record. An epoch writes its position last."""
        if key is None or self.overflow:
            return
        if key == b"\0position":
            if value is not None and value.isdigit():
                self.position = int(value)
                self.settled, self.since = list(self._sums), list(self._since)
            return
        if key.startswith(SINCE_KEY):
            self._begin(key[len(SINCE_KEY) :], value)
            return
        found = self._reading.row(key, value)
        if found is None:
            return
        window, row = found
        if window < 0:
            self.unknown += 1
            return
        name, rows = hash(key), self._rows[window]
        if row is None:
            # What an expired row had counted stays counted.
            self.unknown += rows.pop(name, None) is None
            return
        before = rows.get(name, 0)
        place = WINDOWS + 2 * window
        self._sums[place] += row.count - (before >> _LATE_BITS)
        self._sums[place + 1] += row.late - (before & ((1 << _LATE_BITS) - 1))
        rows[name] = row.count << _LATE_BITS | row.late

    def _begin(self, identity: bytes, value: bytes | None) -> None:
        """A window begins anew: its rows of before are void."""
        if value is None or not value.isdigit():
            return
        for w, window in enumerate(self._reading.windows):
            if window.identity.encode() == identity:
                self._since[w] = int(value)
                self._rows[w].clear()
                place = WINDOWS + 2 * w
                self._sums[place : place + 2] = 0, 0

    @property
    def rows(self) -> int:
        """Rows followed."""
        return sum(map(len, self._rows))

    def forget(self) -> None:
        """There are too many rows: follow none of this partition any more."""
        self.overflow = True
        for rows in self._rows:
            rows.clear()


class Books:
    """Everything the auditor has read since it opened them."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.sources: dict[TopicPartition, SourceBook] = {}
        self.late: dict[TopicPartition, SideBook] = {}
        self.rejected: dict[TopicPartition, SideBook] = {}
        self.made: dict[TopicPartition, SideBook] = {}
        self.finals: dict[TopicPartition, FinalsBook] = {}
        self.told: dict[int, list[int]] = {}
        """By partition of log-events, what all chunks tell of it."""
        self.sent = [0] * reading.width
        """Sums of all chunks, without what is of before a window was declared."""
        self.rows: dict[int, RowsBook] = {}
        self.order = Order()
        self.unaddressed = 0

    def source(self, topic: str, partition: int, start: int, since: Since = EVER) -> SourceBook:
        """The book of a source partition, opened at ``start`` when there is none."""
        book = self.sources.get((topic, partition))
        if book is None:
            width = self.reading.width
            book = self.sources[topic, partition] = SourceBook(start, width, since)
            self.late[topic, partition] = SideBook(width, since)
            self.rejected[topic, partition] = SideBook(width, since)
            if topic in SHIPPED:
                self.made[topic, partition] = SideBook(MADE_WIDTH)
        return book

    def side(
        self,
        books: dict[TopicPartition, SideBook],
        where: TopicPartition,
        origin: Origin | None,
        vector: Vector,
    ) -> None:
        """Take in a record of a side topic; one that names no source partition is only counted."""
        book = None if origin is None else books.get((origin.topic, origin.partition))
        if origin is None or book is None:
            self.unaddressed += 1
            return
        self.order.see(where, origin)
        if not book.full:
            book.add(origin.offset, vector)

    def event(self, where: TopicPartition, origin: Origin | None, vector: Vector) -> None:
        """Take in an event of ``log-events``; one that came another way was made of nothing."""
        book = None if origin is None else self.made.get((origin.topic, origin.partition))
        if origin is not None and book is not None:
            self.order.see(where, origin)
            book.add(origin.offset, vector[:MADE_WIDTH])

    def chunk(self, told: Mapping[int, Told], vector: Vector) -> None:
        """Take in a chunk: its sums, and what it tells of partitions of log-events.

        One that is not read is only counted: a forged number may be any.
        """
        self.sent = total([self.sent, vector], len(vector))
        for source, (position, numbers) in told.items():
            book = self.sources.get((LOG_EVENTS, source))
            if book is None:
                self.unaddressed += 1
                continue
            # It speaks of records below its position, of a window that counted the last of them.
            since = book.since.masked(max(0, position - 1), numbers)
            self.told[source] = total([self.told.get(source, [0] * len(since)), since], len(since))
            before = [one - other for one, other in zip(since, numbers, strict=True)]
            self.sent = total([self.sent, before], len(vector))

    def row(self, partition: int, records: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Take in changelog records of a partition."""
        book = self.rows[partition]
        for key, value in records:
            book.add(key, value)
        if sum(each.rows for each in self.rows.values()) > ROWS_MAX:
            for each in self.rows.values():
                each.forget()
