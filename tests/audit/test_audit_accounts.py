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
from agents.audit.facts import Reading, Vector, Window, total
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

    Every event came through application-logs/0, offset = its number = its origin. Each batch of a
    partition became one chunk, merged into one row of the changelog of its number.

    ``since``: offset by partition from which the window is declared as it is. Before, every other
    event was counted otherwise and the rest not at all. ``anew``: chunk from which rows count.
    """

    history: Sequence[tuple[int, str]]
    start: int = 0
    since: Mapping[int, int] = field(default_factory=dict)
    anew: int = 0
    events: dict[int, list[tuple[int, Vector]]] = field(default_factory=dict)
    sides: list[tuple[str, int, int, Vector]] = field(default_factory=list)
    chunks: list[tuple[int, Vector, int | None]] = field(default_factory=list)
    row: tuple[int, int] = (0, 0)
    counts: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
            sums, sent = (1, 0, fate == "applied", fate == "late"), fate in ("applied", "late")
            if len(log) < self.since.get(partition, 0):
                sums, sent = (1, 0, 3, 5), number % 2 > 0
            if sent:
                self.chunks.append((partition, sums, len(log) + 1))
            log.append((number, vector))
        self.anew = min(self.anew, len(self.chunks))
        sums = total([vector for _, vector, _ in self.chunks[self.anew :]], 4)
        self.row = (sums[2], sums[3])

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
        for source, vector, position in self.chunks:
            books.partial(0, source, vector, position)
        partials.add(list(enumerate(vector for _, vector, _ in self.chunks)), NOW)
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
        checks += accounts.windows(books.partials, books, settled, last, "")
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
    world = World(history)
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
            partition, *_ = world.chunks.pop()
            named = ("log-events", partition)
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


@given(histories, declarations, st.integers(0, 40))
def test_a_window_declared_anew_balances_from_there_on(
    history: list[tuple[int, str]], since: dict[int, int], anew: int
):
    findings = World(history, since=since, anew=anew).findings()
    assert {f.verdict for f in findings} == {"balanced"}


@given(histories, declarations, st.integers(0, 40), st.data())
def test_what_is_lost_or_counted_twice_since_a_window_was_declared_anew_is_named(
    history: list[tuple[int, str]], since: dict[int, int], anew: int, data: st.DataObject
):
    world = World(history, since=since, anew=anew)
    new = [i for i, (p, _, position) in enumerate(world.chunks) if (position or 0) > since[p]]
    assume(new)
    at = data.draw(st.sampled_from(new))
    partition, vector, position = world.chunks[at]
    match data.draw(st.sampled_from(["lost", "twice", "forged", "wrong row"])):
        case "lost":
            del world.chunks[at]
        case "twice":
            world.chunks.append((partition, vector, position))
        case "forged":  # by someone who does not know of positions
            world.chunks.append((partition, vector, None))
        case _:
            world.row = (world.row[0] + 1, world.row[1])
            partition = None
    named = ("window-partials-changelog", 0) if partition is None else ("log-events", partition)
    assert named in wrong(world.findings())


def test_chunks_that_tell_no_position_belong_to_those_before_them():
    books = Books(READING)
    books.source("log-events", 0, 0, Since((5,)))
    for where, position in ((0, None), (0, 5), (0, None), (1, None), (0, 6), (0, None), (1, None)):
        books.partial(where, 0, (1, 0, 1, 0), position)
    assert books.partials == {0: [7, 0, 2, 0]}


def test_a_window_that_a_partition_does_not_count_is_not_called_balanced_there():
    books = Books(READING)
    book = books.source("log-events", 0, 0, Since((NEVER,)))
    book.add([(n, event(n, keyed=True)) for n in range(9)], NOW)
    settled = accounts.settle(books, {("log-events", 0): Committed(9, Account(9, 0, 0, 0))})
    checks = accounts.windows({}, books, settled, settled, "")
    assert [Judge().judge(each).verdict for each in checks] == ["in flight", "balanced"]
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
    for source in (0, 1, 1 << 40):
        books.partial(0, source, (1, 0, 1, 0), 1)
    assert (books.partials, books.unaddressed) == ({0: [1, 0, 1, 0]}, 2)
