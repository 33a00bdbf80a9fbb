"""The comparison: what the topics hold against what the engine says. Pure.

Exact at any cut (offset, counts and side outputs belong to one transaction):

- records in: the group's own count of a partition = records of its log below the offset
- late, rejected: the group's counts = side records that name an offset below it
- made: events that name an offset of a shipper's topic below it = records there less the
  dead letters, by number, and by checksum of their ids
- rows: sums over a changelog's rows at its position = sums over the chunks below it
- finals: none is written twice

Exact where the committed offset did not move while the auditor read, otherwise within what
was in flight between the two looks:

- windows: of each source partition, events with the window's key less those dead-lettered
  = what the chunks tell of it; and of all together = what partials count or call late

A window that was declared anew, or otherwise, is compared from the offset on that the group has
committed for it (see :mod:`agents.audit.since`): exactly as if it had begun there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agents.audit.books import SHIPPED, Books, RowsBook, TopicPartition
from agents.audit.facts import CHECKSUM, RECORDS, WINDOWS, Window, same_checksum
from agents.audit.marks import Account
from agents.audit.since import NEVER
from agents.topics import (
    DEAD_LETTERS,
    ENTITY_EVENTS,
    LATE_EVENTS,
    LOG_EVENTS,
    SESSION_PARTIALS,
    WINDOW_CHANGELOG,
    WINDOW_PARTIALS,
)

SOURCES: Final = (*SHIPPED, LOG_EVENTS, WINDOW_PARTIALS, SESSION_PARTIALS, ENTITY_EVENTS)

Verdict = Literal["balanced", "in flight", "trimmed", "mismatch"]
_WORST: Final[tuple[Verdict, ...]] = ("balanced", "in flight", "trimmed", "mismatch")


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group has committed for a partition; ``account`` None: it keeps no counts.

    ``since``: fingerprint of what is counted -> from which offset; None: it is not told.
    """

    offset: int
    account: Account | None
    since: Mapping[str, int] | None = None


Cut = Mapping[TopicPartition, Committed]
Sums = Mapping[TopicPartition, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Check:
    """One equation: ``low <= found <= high``; exact when both are equal.

    ``excuse`` says what no longer can be counted, if anything. With ``ids``, ``found`` is a
    difference of checksums, right only when it is 0 modulo 2^64.
    """

    account: str
    topic: str
    partition: int | None
    low: int
    high: int
    found: int
    excuse: str = ""
    ids: bool = False

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What names the equation from round to round."""
        return self.account, self.topic, self.partition


def unknown(topic: str) -> Check:
    """Stands for what could not be compared, for which no topic is called balanced."""
    return Check("not compared", topic, None, 0, 1, 0)


@dataclass(frozen=True, slots=True)
class Finding:
    """How an equation came out. ``difference``: found less expected, 0 where it holds."""

    check: Check
    verdict: Verdict
    difference: int

    def sentence(self) -> str:
        """For the log and the operator."""
        check = self.check
        where = check.topic if check.partition is None else f"{check.topic}/{check.partition}"
        if check.ids:
            return f"{where}: {check.account}: as many as expected, but not the same ids"
        expected = f"{check.low}" if check.low == check.high else f"{check.low} to {check.high}"
        return (
            f"{where}: {check.account}: expected {expected}, found {check.found}, "
            f"difference {self.difference:+d}"
        )


class Judge:
    """Judges checks round after round.

    Where a log no longer holds all that was counted, the first exact difference becomes the
    baseline, and from there on every record must balance again.
    """

    def __init__(self) -> None:
        self._baselines: dict[tuple[str, str, int | None], int] = {}

    def judge(self, check: Check) -> Finding:
        """The finding of one check."""
        base = self._baselines.get(check.key)
        difference = _difference(check, base or 0)
        exact = check.low == check.high
        if difference and check.excuse and base is None:
            if exact:
                self._baselines[check.key] = check.found - check.low
            return Finding(check, "trimmed", 0)
        if difference:
            return Finding(check, "mismatch", difference)
        if base is not None:
            return Finding(check, "trimmed", 0)
        return Finding(check, "balanced" if exact else "in flight", 0)


def _difference(check: Check, base: int) -> int:
    found = check.found - base
    if check.ids:
        return 0 if same_checksum(found, 0) else 1
    return found - min(max(found, check.low), check.high)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that matters."""
    return max(verdicts, key=_WORST.index, default="balanced")


@dataclass(frozen=True, slots=True)
class Settled:
    """Sums of every source partition at a cut: what came in, was late, was rejected, was made."""

    records: Sums
    late: Sums
    rejected: Sums
    made: Sums


def settle(books: Books, cut: Cut) -> Settled:
    """Settle the books at a cut; a partition without a committed offset has settled nothing."""
    at = {tp: cut[tp].offset if tp in cut else 0 for tp in books.sources}
    return Settled(
        {tp: book.settle(at[tp]) for tp, book in books.sources.items()},
        {tp: book.settle(at[tp]) for tp, book in books.late.items()},
        {tp: book.settle(at[tp]) for tp, book in books.rejected.items()},
        {tp: book.settle(at[tp]) for tp, book in books.made.items()},
    )


def _log_excuse(books: Books, topics: Sequence[str]) -> str:
    gone = [tp for tp, book in books.sources.items() if tp[0] in topics and book.start > 0]
    return f"the log of {gone[0][0]}/{gone[0][1]} no longer begins at 0" if gone else ""


def own_counts(
    books: Books, cut: Cut, settled: Settled, side_excuses: Mapping[str, str]
) -> list[Check]:
    """The group's own counts against the logs: exact at any cut, partition by partition."""
    checks = []
    for tp, committed in cut.items():
        account = committed.account
        if account is None:
            checks.append(unknown(tp[0]))
        if tp not in books.sources or account is None:
            continue
        excuse = "" if books.sources[tp].start == 0 else _log_excuse(books, (tp[0],))
        records, late = settled.records[tp][RECORDS], settled.late[tp][RECORDS]
        rejected = settled.rejected[tp][RECORDS]
        late_excuse, dead_excuse = (side_excuses.get(t, "") for t in (LATE_EVENTS, DEAD_LETTERS))
        checks += [
            Check("in", *tp, records, records, account.records, excuse),
            Check("late", *tp, account.late, account.late, late, late_excuse),
            Check("rejected", *tp, account.rejected, account.rejected, rejected, dead_excuse),
        ]
        twice = books.order.broken.get(tp, 0)
        if twice:
            checks.append(Check("offsets named twice", *tp, 0, 0, twice))
    return checks


def windows(
    told: Mapping[int, Sequence[int]],
    sent: Sequence[int],
    books: Books,
    first: Settled,
    last: Settled,
    side_excuse: str,
) -> list[Check]:
    """Events of log-events against the chunks made of them, window by window.

    ``told``: partition -> what the chunks read between the two looks tell of it; ``sent``: sums
    of their partials.
    """
    checks = []
    trimmed = _log_excuse(books, (LOG_EVENTS, WINDOW_PARTIALS)) or side_excuse
    sources = [(tp, book) for tp, book in books.sources.items() if tp[0] == LOG_EVENTS]
    for w, window in enumerate(books.reading.windows):
        account, place, lows, highs = f"window {window.name}", WINDOWS + 2 * w, 0, 0
        for tp, book in sources:
            low, high = (
                each.records[tp][place] - each.rejected[tp][place] for each in (first, last)
            )
            found = sum(told.get(tp[1], ())[place : place + 2])
            # A partition's own difference is told of it, and not once more of all together.
            lows, highs = lows + min(low, found), highs + max(low, high, found)
            checks.append(
                Check(account, *tp, 0, 1, 0)
                if window.key is not None and book.since.of(w) == NEVER
                else Check(account, *tp, low, max(low, high), found, trimmed)
            )
        all_sent = sum(sent[place : place + 2])
        checks.append(Check(account, LOG_EVENTS, None, lows, highs, all_sent, trimmed))
    # With several windows a record is reported late once, and counted late by each.
    for tp, _ in sources if len(books.reading.windows) == 1 else ():
        if first.records[tp] == last.records[tp]:
            late, found = first.late[tp][WINDOWS + 1], sum(told.get(tp[1], ())[WINDOWS + 1 :])
            checks.append(Check("late in the window", *tp, late, late, found, trimmed))
    return checks


def _rows_of(
    window: Window, w: int, partition: int, book: RowsBook, since: int, made: list[int], excuse: str
) -> list[Check]:
    """Rows of one window against what was ``made`` of it: sums of the chunks that are not dead."""
    if window.key is not None and (since == NEVER or book.since[w] > since):
        return [unknown(WINDOW_CHANGELOG)]
    if book.since[w] < since:
        excuse = excuse or "its rows hold what was counted before that was told"
    at = WINDOWS + 2 * w
    return [
        Check(f"rows of {window.name}, {name}", WINDOW_CHANGELOG, partition, n, n, found, excuse)
        for name, n, found in zip(("counted", "late"), made, book.settled[at : at + 2], strict=True)
    ]


def rows(books: Books, now_ms: int) -> list[Check]:
    """Rows of each changelog partition against the chunks below its position: exact."""
    checks = []
    retention_ms = min((w.retention_ms for w in books.reading.windows), default=0)
    for partition, book in books.rows.items():
        source = books.sources.get((WINDOW_PARTIALS, partition))
        if book.overflow:
            checks.append(unknown(WINDOW_CHANGELOG))
        if source is None or book.position is None or book.overflow:
            continue
        at = source.cut
        if book.position < at:
            checks.append(Check("position", WINDOW_CHANGELOG, partition, at, at, book.position))
        if not at <= book.position <= source.next:
            continue
        chunks = source.settle(book.position)
        dead = books.rejected[WINDOW_PARTIALS, partition].settle(book.position)
        excuse = _log_excuse(books, (WINDOW_PARTIALS,))
        if book.unknown:
            excuse = excuse or "rows expired"
        elif source.first_ms is not None and now_ms - source.first_ms > retention_ms:
            excuse = excuse or "the oldest rows may have expired"
        for w, window in enumerate(books.reading.windows):
            made = [chunks[place] - dead[place] for place in (WINDOWS + 2 * w, WINDOWS + 2 * w + 1)]
            checks += _rows_of(window, w, partition, book, source.since.of(w), made, excuse)
    return checks


def events(books: Books, settled: Settled, side_excuse: str) -> list[Check]:
    """Each shipper's partition against the events that name it: by number, and by their ids."""
    checks = []
    for tp, made in settled.made.items():
        came, rejected = settled.records[tp], settled.rejected[tp]
        wanted = came[RECORDS] - rejected[RECORDS]
        excuse = _log_excuse(books, (tp[0], LOG_EVENTS)) or side_excuse
        checks.append(Check("made", *tp, wanted, wanted, made[RECORDS], excuse))
        if made[RECORDS] == wanted or excuse:
            apart = made[CHECKSUM] - came[CHECKSUM] + rejected[CHECKSUM]
            checks.append(Check("ids of events", *tp, 0, 0, apart, excuse, ids=True))
    return checks


def finals(books: Books) -> list[Check]:
    """No final comes twice."""
    return [Check("written twice", *tp, 0, 0, book.twice) for tp, book in books.finals.items()]
