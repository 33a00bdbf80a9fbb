"""The comparison: right ledgers balance at any cut, and one wrong record is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents.audit import accounts
from agents.audit.accounts import Check, Committed, Finding, Judge, worst
from agents.audit.books import Books, RowsBook
from agents.audit.facts import Reading, Told, Vector, Window, total
from agents.audit.marks import Account, Origin
from agents.audit.report import later
from agents.audit.since import NEVER, Since
from app.engine.changelog import POSITION_KEY, row_record_key, since_key
from tables.windows.stats import WindowAggregate, WindowStats

READING = Reading((Window("w", "endpoint", "window-1-x", 1 << 40),), 1 << 20)
ENCODE = WindowAggregate().encode
NOW = 1_790_000_000_000
PARTITIONS = 2

fates = st.sampled_from(
    ["applied", "applied", "applied", "keyless", "late", "late elsewhere", "rejected"]
)
histories = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), fates), max_size=40)


def event(number: int, *, keyed: bool) -> Vector:
    return (1, number * 2_654_435_761, int(keyed), 0)


@dataclass
class World:
    """A pipeline that does everything right; tests then change what the topics hold.

    Every event came through application-logs/0, offset = its number = its origin. ``together``
    events in turn, of whatever partition, became one chunk, merged into one row of the changelog.

    ``since``: offset by partition from which the window is declared as it is. Before, every other
    event was counted otherwise and the rest not at all. ``anew``: chunk from which rows count.
    """

    history: Sequence[tuple[int, str]]
    start: int = 0
    since: Mapping[int, int] = field(default_factory=dict)
    anew: int = 0
    together: int = 1
    events: dict[int, list[tuple[int, Vector]]] = field(default_factory=dict)
    sides: list[tuple[str, int, int, Vector]] = field(default_factory=list)
    chunks: list[tuple[dict[int, Told], Vector]] = field(default_factory=list)
    row: tuple[int, int] = (0, 0)
    counts: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made: list[tuple[int, int, Vector]] = []
        for number, (partition, fate) in enumerate(self.history):
            log = self.events.setdefault(partition, [])
            vector = event(number, keyed=fate not in ("keyless", "late elsewhere"))
            counts = self.counts.setdefault(partition, [0, 0, 0, 0])
            if fate == "rejected":
                self.sides.append((fate, partition, len(log), vector))
                counts[3] += 1
            elif fate in ("late", "late elsewhere"):
                told = (*vector[:3], int(fate == "late"))
                self.sides.append(("late", partition, len(log), told))
                counts[1] += 1
            else:
                counts[0] += 1
            sums, sent = (0, 0, fate == "applied", fate == "late"), fate in ("applied", "late")
            if len(log) < self.since.get(partition, 0):
                sums, sent = (0, 0, 3, 5), number % 2 > 0
            # Whoever declares anew begins with the next epoch.
            if len(log) == self.since.get(partition) or len(made) == self.together:
                self.send(made)
                made = []
            if sent:
                made.append((partition, len(log) + 1, sums))
            log.append((number, vector))
        self.send(made)
        self.anew = min(self.anew, len(self.chunks))
        sums = total([vector for _, vector in self.chunks[self.anew :]], 4)
        self.row = (sums[2], sums[3])

    def send(self, made: list[tuple[int, int, Vector]]) -> None:
        """One chunk of what became of records: partition, offset after it, sums."""
        told: dict[int, Told] = {}
        for partition, position, sums in made:
            _, before = told.get(partition, (0, (0, 0, 0, 0)))
            told[partition] = position, tuple(total([before, sums], 4))
        if made:
            whole = total([sums for _, _, sums in made], 4)
            self.chunks.append((told, (1, *whole[1:])))

    def findings(self, first: dict[int, int] | None = None) -> list[Finding]:
        """Findings with partitions of log-events first seen at these offsets, then at the end."""
        books, judge = Books(READING), Judge()
        shipped = books.source("application-logs", 0, 0)
        shipped.add([(n, event(n, keyed=False)) for n in range(len(self.history))], NOW)
        for partition in range(PARTITIONS):
            since = Since((self.since.get(partition, 0),))
            books.source("log-events", partition, self.start, since)
        partials = books.source("window-partials", 0, 0, Since((self.anew,)))
        end = {p: len(self.events.get(p, [])) for p in range(PARTITIONS)}
        second = self.cut(end)
        cut = self.cut(first or end)
        accounts.settle(books, cut)
        for partition, log in self.events.items():
            where = ("log-events", partition)
            for number, vector in log[self.start :]:
                books.event(where, Origin("application-logs", 0, number), vector)
            records = [(offset, vector) for offset, (_, vector) in enumerate(log)][self.start :]
            books.sources[where].add(records, NOW)
            books.sources[where].next = len(log)
        for kind, partition, offset, vector in self.sides:
            side = books.late if kind == "late" else books.rejected
            origin = Origin("log-events", partition, offset)
            books.side(side, (f"log-events-{kind}", 0), origin, vector)
        for told, vector in self.chunks:
            books.chunk(told, vector)
        partials.add(list(enumerate(vector for _, vector in self.chunks)), NOW)
        partials.next = len(self.chunks)
        rows = books.rows[0] = RowsBook(READING)
        stats = ENCODE(WindowStats(count=self.row[0], late=self.row[1]))
        rows.add(row_record_key("window-1-x", b"k"), ENCODE(WindowStats(count=1 << 20)))
        if self.anew:
            rows.add(row_record_key("window-1-x", b"untouched"), ENCODE(WindowStats(count=7)))
            rows.add(POSITION_KEY, b"%d" % self.anew)
            rows.add(since_key("window-1-x"), b"%d" % self.anew)
        rows.add(row_record_key("window-1-x", b"k"), stats)
        rows.add(POSITION_KEY, b"%d" % len(self.chunks))
        settled = accounts.settle(books, cut)
        checks = accounts.own_counts(books, cut, settled, {})
        checks += accounts.rows(books, NOW)
        last = accounts.settle(books, second)
        checks += accounts.windows(books.told, books.sent, books, settled, last, "")
        checks += accounts.events(books, settled, "")
        return [judge.judge(check) for check in checks]

    def cut(self, at: dict[int, int]) -> dict[tuple[str, int], Committed]:
        """What a right engine has committed there."""
        found = {
            ("application-logs", 0): Committed(
                len(self.history), Account(len(self.history), 0, 0, 0)
            ),
            ("window-partials", 0): Committed(len(self.chunks), Account(len(self.chunks), 0, 0, 0)),
        }
        for partition, offset in at.items():
            fates = [fate for p, fate in self.history if p == partition][:offset]
            late = fates.count("late") + fates.count("late elsewhere")
            rejected = fates.count("rejected")
            account = Account(len(fates) - late - rejected, late, 0, rejected)
            found["log-events", partition] = Committed(offset, account)
        return found


def wrong(findings: list[Finding]) -> set[tuple[str, int | None]]:
    return {(f.check.topic, f.check.partition) for f in findings if f.verdict == "mismatch"}


@given(histories)
def test_a_right_ledger_balances_exactly_when_nothing_moves(history: list[tuple[int, str]]):
    assert {f.verdict for f in World(history).findings()} == {"balanced"}


@given(histories, st.lists(st.integers(0, 40), min_size=PARTITIONS, max_size=PARTITIONS))
def test_a_right_ledger_is_never_called_wrong_while_it_moves(
    history: list[tuple[int, str]], at: list[int]
):
    world = World(history)
    first = {p: min(at[p], len(world.events.get(p, []))) for p in range(PARTITIONS)}
    verdicts = {f.verdict for f in world.findings(first)}
    assert verdicts <= {"balanced", "in flight"}


@given(histories.filter(lambda h: len(h) > 0), st.data())
def test_one_record_too_many_or_too_few_is_named(
    history: list[tuple[int, str]], data: st.DataObject
):
    world = World(history, together=data.draw(st.integers(1, 5)))
    kinds = ["forged dead letter", "lost event", "doubled event"]
    kinds += ["lost side record", "doubled side record"] if world.sides else []
    kinds += ["lost chunk", "wrong row"] if world.chunks else []
    kind = data.draw(st.sampled_from(kinds))
    partition, _ = data.draw(st.sampled_from(list(history)))
    log = world.events[partition]
    match kind:
        case "forged dead letter":
            at = data.draw(st.integers(0, len(log) - 1))
            world.sides.append(("rejected", partition, at, log[at][1]))
            named = ("log-events", partition)
        case "lost event":
            del log[-1]
            named = ("log-events", partition)
        case "doubled event":
            log.append(log[-1])
            named = ("application-logs", 0)
        case "lost side record":
            _, partition, *_ = world.sides.pop()
            named = ("log-events", partition)
        case "doubled side record":
            world.sides.append(world.sides[-1])
            named = ("log-events", world.sides[-1][1])
        case "lost chunk":
            told, _ = world.chunks.pop()
            named = ("log-events", data.draw(st.sampled_from([*told])))
        case _:
            world.row = (world.row[0] + 1, world.row[1])
            named = ("window-partials-changelog", 0)
    first = {p: sum(each == p for each, _ in history) for p in range(PARTITIONS)}
    assert named in wrong(world.findings(first)), kind


def test_an_event_replaced_by_another_changes_the_checksum_only():
    world = World([(0, "applied"), (0, "applied")])
    world.events[0][1] = (1, event(99, keyed=True))
    findings = [f for f in world.findings() if f.verdict == "mismatch"]
    assert [f.check.account for f in findings] == ["ids of events"]
    assert "not the same ids" in findings[0].sentence()


def test_a_trimmed_log_is_said_to_be_so_and_counted_from_there_on():
    judge = Judge()
    trimmed = Check("in", "log-events", 1, 90, 90, 100, "the log no longer begins at 0")
    assert judge.judge(trimmed).verdict == "trimmed"
    assert (
        judge.judge(Check("in", "log-events", 1, 95, 95, 105, trimmed.excuse)).verdict == "trimmed"
    )
    lost = judge.judge(Check("in", "log-events", 1, 95, 95, 104, trimmed.excuse))
    assert (lost.verdict, lost.difference) == ("mismatch", -1)


def test_a_trimmed_source_is_no_alarm():
    world = World([(0, "applied")] * 9, start=3)
    assert wrong(world.findings()) == set()


@pytest.mark.parametrize(("found", "difference"), [(4, -1), (5, 0), (7, 0), (9, 1)])
def test_what_moves_is_bounded_on_both_sides(found: int, difference: int):
    finding = Judge().judge(Check("window w", "log-events", 0, 5, 8, found))
    assert finding.difference == difference
    assert finding.verdict == ("mismatch" if difference else "in flight")
    if difference:
        assert f"log-events/0: window w: expected 5 to 8, found {found}" in finding.sentence()


def test_the_worst_verdict_wins():
    assert worst([]) == "balanced"
    assert worst(["balanced", "mismatch", "trimmed"]) == "mismatch"


def test_an_expired_row_stays_counted_and_an_unknown_one_is_noted():
    rows = RowsBook(READING)
    key = row_record_key("window-1-x", b"k")
    rows.add(key, ENCODE(WindowStats(count=5, late=2)))
    rows.add(key, None)
    rows.add(key, ENCODE(WindowStats(count=1)))
    rows.add(row_record_key("window-1-x", b"other"), None)
    assert rows.position is None
    rows.add(POSITION_KEY, b"17")
    assert (rows.position, rows.settled[2:], rows.unknown, rows.rows) == (17, [6, 2], 1, 1)
    rows.add(row_record_key("window-1-former", b"k"), ENCODE(WindowStats(count=5)))
    rows.add(POSITION_KEY, b"18")
    assert (rows.settled[2:], rows.unknown, rows.rows) == ([6, 2], 1, 1)


def test_what_is_not_compared_is_not_called_balanced():
    books = Books(READING)
    books.source("log-events", 0, 0)
    books.source("window-partials", 0, 0)
    books.rows[0] = RowsBook(READING)
    books.rows[0].forget()
    cut = {("log-events", 0): Committed(5, None)}
    checks = accounts.own_counts(books, cut, accounts.settle(books, cut), {})
    checks += accounts.rows(books, NOW)
    judge = Judge()
    assert [(c.topic, judge.judge(c).verdict) for c in checks] == [
        ("log-events", "in flight"),
        ("window-partials-changelog", "in flight"),
    ]


declarations = st.fixed_dictionaries({p: st.integers(0, 40) for p in range(PARTITIONS)})


@given(histories, declarations, st.integers(0, 40), st.integers(1, 5))
def test_a_window_declared_anew_balances_from_there_on(
    history: list[tuple[int, str]], since: dict[int, int], anew: int, together: int
):
    findings = World(history, since=since, anew=anew, together=together).findings()
    assert {f.verdict for f in findings} == {"balanced"}


@given(histories, declarations, st.integers(0, 40), st.data())
def test_what_is_lost_or_counted_twice_since_a_window_was_declared_anew_is_named(
    history: list[tuple[int, str]], since: dict[int, int], anew: int, data: st.DataObject
):
    world = World(history, since=since, anew=anew, together=data.draw(st.integers(1, 5)))
    new = [
        (at, partition)
        for at, (told, _) in enumerate(world.chunks)
        for partition, (position, _) in told.items()
        if position > since[partition]
    ]
    assume(new)
    at, partition = data.draw(st.sampled_from(new))
    told, vector = world.chunks[at]
    named: tuple[str, int | None] = ("log-events", partition)
    kinds = ["lost", "twice", "forged", "unlike told", "partials lost", "wrong row"]
    match data.draw(st.sampled_from(kinds)):
        case "lost":
            del world.chunks[at]
        case "twice":
            world.chunks.append((told, vector))
        case "forged":  # by someone who tells nothing
            world.chunks.append(({}, (1, 0, 1, 0)))
            named = ("log-events", None)
        case "unlike told":
            position, (*_, counted, late) = told[partition]
            world.chunks[at] = {**told, partition: (position, (0, 0, counted + 1, late))}, vector
        case "partials lost":
            world.chunks[at] = told, (1, 0, *(max(0, number - 1) for number in vector[2:]))
            named = ("log-events", None)
        case _:
            world.row = (world.row[0] + 1, world.row[1])
            named = ("window-partials-changelog", 0)
    assert named in wrong(world.findings())


def test_what_is_told_of_a_window_before_it_was_declared_is_not_counted():
    books = Books(READING)
    books.source("log-events", 0, 0, Since((5,)))
    books.source("log-events", 1, 0)
    for position in (5, 6):
        told = {0: (position, (0, 0, 1, 0)), 1: (position, (0, 0, 2, 1))}
        books.chunk(told, (1, 0, 3, 1))
    assert books.told == {0: [0, 0, 1, 0], 1: [0, 0, 4, 2]}
    assert books.sent == [2, 0, 5, 2]


def test_a_window_that_a_partition_does_not_count_is_not_called_balanced_there():
    books = Books(READING)
    book = books.source("log-events", 0, 0, Since((NEVER,)))
    book.add([(n, event(n, keyed=True)) for n in range(9)], NOW)
    settled = accounts.settle(books, {("log-events", 0): Committed(9, Account(9, 0, 0, 0))})
    checks = accounts.windows({}, [0] * 4, books, settled, settled, "")
    verdicts = [Judge().judge(each).verdict for each in checks]
    assert verdicts == ["in flight", "balanced", "balanced"]
    (note,) = later(books)
    assert "w is not counted yet" in note


@pytest.mark.parametrize(
    ("told", "began", "verdict"),
    [
        (7, 7, "balanced"),
        (0, 7, "in flight"),  # the changelog was read further than the group's metadata
        (7, 0, "trimmed"),  # by a version that told nothing: rows go on, from a baseline
        (NEVER, 0, "in flight"),
    ],
)
def test_rows_are_held_against_chunks_of_one_declaration(told: int, began: int, verdict: str):
    books = Books(READING)
    source = books.source("window-partials", 0, 0, Since((told,)))
    source.add([(n, (1, 0, 1, 0)) for n in range(9)], NOW)
    source.next = 9
    accounts.settle(books, {("window-partials", 0): Committed(9, Account(9, 0, 0, 0))})
    rows = books.rows[0] = RowsBook(READING)
    rows.add(row_record_key("window-1-x", b"k"), ENCODE(WindowStats(count=4)))
    if began:
        rows.add(since_key("window-1-x"), b"%d" % began)
    rows.add(row_record_key("window-1-x", b"k"), ENCODE(WindowStats(count=2 if began else 9)))
    rows.add(POSITION_KEY, b"9")
    judge = Judge()
    verdicts = [judge.judge(each).verdict for each in accounts.rows(books, NOW)]
    assert worst(verdicts) == verdict


def test_state_behind_the_committed_offset_is_a_mismatch():
    books = Books(READING)
    source = books.source("window-partials", 0, 0)
    source.add([(n, (1, 0, 1, 0)) for n in range(9)], NOW)
    source.next = 9
    accounts.settle(books, {("window-partials", 0): Committed(9, Account(9, 0, 0, 0))})
    books.rows[0] = RowsBook(READING)
    books.rows[0].add(POSITION_KEY, b"7")
    (check,) = accounts.rows(books, NOW)
    assert Judge().judge(check).difference == -2


def test_chunks_of_partitions_that_are_not_there_are_counted_and_not_kept() -> None:
    books = Books(READING)
    books.source("log-events", 0, 0)
    told = dict.fromkeys((0, 1, 1 << 40), (1, (0, 0, 1, 0)))
    books.chunk(told, (1, 0, 3, 0))
    assert (books.told, books.unaddressed) == ({0: [0, 0, 1, 0]}, 2)
