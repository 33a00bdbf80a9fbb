"""One auditor: its books, and how a pass over the topics is made. Blocking.

A pass looks at the committed offsets, reads everything up to the ends the logs then have,
looks again, and compares. Where offsets moved between the looks it can only bound some
accounts, so a round is a few passes: each reads only what is new and is shorter, and an
idle moment makes every account exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import confluent_kafka as ck

from agents.audit import accounts
from agents.audit.accounts import SOURCES, Check, Cut, Judge
from agents.audit.books import SHIPPED, Books, RowsBook, SourceBook, TopicPartition
from agents.audit.facts import Audited, Reading, Vector
from agents.audit.finals import IDS_MAX, FinalsBook
from agents.audit.marks import Origin, read_made, read_origin
from agents.audit.reader import AuditError, Reader
from agents.audit.report import Report, excuses, later, topic_lines
from agents.audit.since import EVER, Since, since_of
from agents.topics import (
    DEAD_LETTERS,
    ENTITY_EVENTS,
    LATE_EVENTS,
    LOG_EVENTS,
    SESSION_PARTIALS,
    SESSIONS_CLOSED,
    WINDOW_CHANGELOG,
    WINDOW_PARTIALS,
    WINDOWS_FINAL,
)

PASSES_MAX: Final = 5
CUT_BELOW_BYTES: Final = 128 << 10
"""A dead letter that would not fit its topic is cut, by less than this below the largest."""
SIDES: Final = (LATE_EVENTS, DEAD_LETTERS)
FINALS: Final = (WINDOWS_FINAL, SESSIONS_CLOSED)
COUNTED: Final = (SESSION_PARTIALS, ENTITY_EVENTS)
"""Sources whose records are counted and not looked into."""
DECLARED: Final = (LOG_EVENTS, WINDOW_PARTIALS)
"""Sources that tell since when each window is counted."""
TOPICS: Final = (*SOURCES, *SIDES, *FINALS, WINDOW_CHANGELOG)


class Auditor:
    """Remembers what it has read, so that each round reads only what is new."""

    def __init__(self, reader: Reader, configured: Audited, clock: Callable[[], int]) -> None:
        """``clock`` gives epoch milliseconds."""
        self._reader = reader
        self._unique_ms = configured.unique_ms
        self._reading = Reading(
            configured.windows, reader.target.record_bytes_max - CUT_BELOW_BYTES
        )
        self._clock = clock
        self._read = 0
        self._begin({}, {})

    def _begin(self, starts: Mapping[TopicPartition, int], cut: Cut) -> None:
        books = self._books = Books(self._reading)
        self._judge = Judge()
        self._next: dict[TopicPartition, int] = dict(starts)
        self._opened = dict(starts)
        ids_max = IDS_MAX // max(1, sum(topic in FINALS for topic, _ in starts))
        for (topic, partition), start in starts.items():
            if topic in FINALS:
                book = FinalsBook(topic, self._unique_ms[topic], ids_max)
                books.finals[topic, partition] = book
            elif topic in SOURCES:
                since = self._since((topic, partition), cut)
                books.source(topic, partition, start, since)
            elif topic == WINDOW_CHANGELOG:
                books.rows[partition] = RowsBook(self._reading)

    def round(self) -> Report:
        """Passes until every account is exact or one is wrong, at most :data:`PASSES_MAX`.

        Raises :class:`~agents.audit.reader.AuditError` when the topics could not be read.
        """
        began, self._read = time.monotonic(), 0
        try:
            for _ in range(PASSES_MAX):
                report = self._pass(began)
                if report.verdict != "in flight":
                    break
        except ck.KafkaException as exc:
            raise AuditError(f"the broker does not answer: {exc.args[0].str()}") from exc
        return report

    def _pass(self, began: float) -> Report:
        reader = self._reader
        starts = reader.log_starts(TOPICS)
        cut = reader.cut(SOURCES)
        if not self._follows(starts, cut):
            self._begin(starts, cut)
        books = self._books
        accounts.settle(books, cut)
        self._advance(reader.ends(TOPICS))
        first = accounts.settle(books, cut)
        in_flight: dict[str, int] = {}
        for (topic, _), book in books.sources.items():
            in_flight[topic] = in_flight.get(topic, 0) + book.in_flight
        told = {partition: list(sums) for partition, sums in books.told.items()}
        sent = list(books.sent)
        behind = [tp for tp, book in books.sources.items() if book.full]
        side_excuses = self._side_excuses()
        checks = accounts.own_counts(books, cut, first, side_excuses)
        checks += accounts.rows(books, self._clock())
        checks += accounts.finals(books)
        dead = side_excuses.get(DEAD_LETTERS, "")
        if self._made_full() or any(tp[0] == LOG_EVENTS for tp in behind):
            checks += [accounts.unknown(topic) for topic in SHIPPED]
        else:
            checks += accounts.events(books, first, dead)
        second = reader.cut(SOURCES)
        # Settled first, so that nothing has to be kept of what is read up to there.
        accounts.settle(books, second)
        self._advance({tp: each.offset for tp, each in second.items()})
        last = accounts.settle(books, second)
        if any(tp[0] in DECLARED for tp in behind) or not self._as_declared(second):
            checks.append(accounts.unknown(LOG_EVENTS))
        else:
            checks += accounts.windows(told, sent, books, first, last, dead)
        return self._report(began, cut, first, in_flight, checks, behind)

    def _report(
        self,
        began: float,
        cut: Cut,
        first: accounts.Settled,
        in_flight: dict[str, int],
        checks: list[Check],
        behind: list[TopicPartition],
    ) -> Report:
        books = self._books
        findings = [self._judge.judge(check) for check in checks]
        wrong = tuple(each for each in findings if each.verdict == "mismatch")
        notes = [*books.order.told]
        notes += excuses(each for each in findings if each.verdict == "trimmed")
        notes += later(books)
        notes += [f"{t}/{p}: too far behind to compare what lies ahead" for t, p in behind]
        if any(book.overflow for book in books.rows.values()):
            notes.append(f"{WINDOW_CHANGELOG}: too many rows to follow, rows are not compared")
        for (topic, partition), kept in books.finals.items():
            where = f"{topic}/{partition}"
            if kept.forgotten:
                notes.append(f"{where}: {kept.note()}")
            if kept.foreign:
                notes.append(f"{where}: {kept.foreign} records are no finals")
        if books.unaddressed:
            what = "dead letters, late records or chunks"
            notes.append(f"{books.unaddressed} {what} name no partition that is read")
        return Report(
            self._clock(),
            topic_lines(books, cut, first, in_flight, findings),
            wrong,
            tuple(notes),
            self._read,
            time.monotonic() - began,
        )

    def _follows(self, starts: Mapping[TopicPartition, int], cut: Cut) -> bool:
        """Whether the logs still go on from where they were left."""
        if self._next.keys() != starts.keys():
            return False
        if any(starts[tp] > offset for tp, offset in self._next.items()):
            return False
        if any(each.offset < self._books.sources[tp].cut for tp, each in cut.items()):
            return False
        return self._as_declared(cut)

    def _as_declared(self, cut: Cut) -> bool:
        """Whether every window counts since when the books say, as far as anything is known."""
        return all(self._since(tp, cut) == self._books.sources[tp].since for tp in cut)

    def _since(self, tp: TopicPartition, cut: Cut) -> Since:
        """Since when each window is counted; before a first commit, nothing has been missed."""
        if tp[0] not in DECLARED or tp not in cut:
            return EVER
        return since_of(self._reading.windows, cut[tp].since)

    def _side_excuses(self) -> dict[str, str]:
        """Side topics that have lost records to retention, and only to it.

        A side record is younger than the record it came from, so retention removes it
        later. A side log that begins late although no source is that old was cut by hand.
        """
        found = {}
        firsts = [b.first_ms for b in self._books.sources.values() if b.first_ms is not None]
        trimmed = any(book.start > 0 for book in self._books.sources.values())
        for topic in SIDES:
            if not any(start > 0 for tp, start in self._opened.items() if tp[0] == topic):
                continue
            retention_ms = self._reader.retention_ms(topic)
            old = firsts and 0 <= retention_ms <= self._clock() - min(firsts)
            if trimmed or old:
                found[topic] = "retention has removed its oldest records"
        return found

    def _made_full(self) -> bool:
        """Whether as many events are ahead of the group as may be kept."""
        return any(book.full for book in self._books.made.values())

    # -- records ---------------------------------------------------------------------------

    def _advance(self, ends: Mapping[TopicPartition, int]) -> None:
        starts = {tp: self._next[tp] for tp in ends}
        left = self._reader.read(starts, ends, self._take)
        self._next.update(left)
        for tp, offset in left.items():
            if tp in self._books.sources:
                self._books.sources[tp].next = offset

    def _take(self, tp: TopicPartition, records: list[ck.Message]) -> bool:
        # Noted at once: reading may fail at any later record, and none may be taken twice.
        self._next[tp] = (records[-1].offset() or 0) + 1
        self._read += len(records)
        topic, partition = tp
        if topic in SIDES:
            self._take_side(tp, records)
        elif topic == WINDOW_CHANGELOG:
            self._books.row(partition, ((r.key(), r.value()) for r in records))
        elif topic in FINALS:
            self._books.finals[tp].add((r.value(), r.timestamp()[1]) for r in records)
        else:
            book = self._books.sources[tp]
            self._take_source(book, tp, records)
            return not (book.full or (topic == LOG_EVENTS and self._made_full()))
        return True

    def _take_source(self, book: SourceBook, tp: TopicPartition, records: list[ck.Message]) -> None:
        topic, partition = tp
        first_ms = records[0].timestamp()[1]
        taken: list[tuple[int, Vector]] = []
        if topic == LOG_EVENTS:
            for record in records:
                vector = self._reading.event(record.value())
                taken.append((record.offset() or 0, vector))
                self._books.event(tp, read_made(_headers(record)), vector)
        elif topic == WINDOW_PARTIALS:
            for record in records:
                told, vector = self._reading.chunk(record.value())
                taken.append((record.offset() or 0, vector))
                self._books.chunk(told, vector)
        elif topic in COUNTED:
            counted = self._reading.counted()
            taken = [(r.offset() or 0, counted) for r in records]
        else:
            shipped = self._reading.shipped
            for record in records:
                offset = record.offset() or 0
                taken.append((offset, shipped(topic, partition, offset, record.value())))
        book.add(taken, first_ms)

    def _take_side(self, tp: TopicPartition, records: list[ck.Message]) -> None:
        books = self._books.late if tp[0] == LATE_EVENTS else self._books.rejected
        for record in records:
            origin = read_origin(_headers(record))
            vector = () if origin is None else self._vector_of(origin, record)
            self._books.side(books, tp, origin, vector)

    def _vector_of(self, origin: Origin, record: ck.Message) -> Vector:
        if origin.topic in SHIPPED:
            value = record.value()
            return self._reading.shipped(origin.topic, origin.partition, origin.offset, value)
        if origin.topic == WINDOW_PARTIALS:
            return self._reading.chunk(record.value())[1]
        if origin.topic in COUNTED:
            return self._reading.counted()
        table = _headers(record).get("table")
        if table is not None:
            return self._reading.late_event(record.value(), table.decode())
        return self._reading.event(record.value())


def _headers(record: ck.Message) -> dict[str, bytes | None]:
    """Headers by name, the last of each: those the engine adds come after the record's own."""
    pairs = record.headers() or []
    return {
        name: value.encode() if isinstance(value, str) else value
        for name, value in (pairs.items() if isinstance(pairs, dict) else pairs)
    }
