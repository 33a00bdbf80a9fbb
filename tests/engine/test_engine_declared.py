"""What is declared anew counts from there on, and nothing kept before comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import confluent_kafka as ck
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.changelog import POSITION_KEY, row_record_key, since_key
from app.engine.counts import Counts, declared_in, encode_metadata
from app.engine.declared import (
    DECLARED_MAX,
    Since,
    begun_anew,
    decode_since,
    encode_since,
    fingerprint,
    since_at,
)
from app.engine.effects import TableSpec
from app.engine.epoch import TaskId
from app.engine.lanes import Lanes
from app.engine.restore import StartPoint, apply_records
from app.engine.starts import _start
from app.engine.store import Positions, Store
from app.engine.store_memory import StoreMemory
from app.engine.task import Task
from tests.engine.rig import COUNTS, Sum, counting_agent
from tests.engine.test_engine_drops import Record

NAMES = ("window a", "window b", "window c")
MIB = 1 << 20
OTHER = TableSpec("others", "others-1", Sum())


@pytest.fixture
def memory() -> StoreMemory:
    return StoreMemory(8 * MIB)


@pytest.fixture
def store(tmp_path: Path, memory: StoreMemory) -> Iterator[Store]:
    made = Store.open(tmp_path / "0", [COUNTS.identity, OTHER.identity], memory)
    yield made
    made.close()


def rows(store: Store, table: TableSpec = COUNTS) -> dict[bytes, bytes]:
    return dict(store.range(table.identity, b"", None, limit=1_000))


@given(
    st.dictionaries(
        st.text("0123456789abcdef", min_size=8, max_size=8),
        st.integers(0, 2**63 - 1),
        min_size=1,
        max_size=DECLARED_MAX,
    )
)
def test_offsets_of_declarations_round_trip(since: dict[str, int]) -> None:
    assert decode_since(encode_since(since)) == since


@pytest.mark.parametrize(
    "text", ["", " ", "0123456", "0123456g", "01234567:", "01234567:-1", "01234567  89abcdef"]
)
def test_what_something_else_wrote_tells_of_no_declaration(text: str) -> None:
    assert decode_since(text) is None


def test_more_declarations_than_there_is_room_for_are_not_read_nor_made() -> None:
    many = {f"{number:08x}": 0 for number in range(DECLARED_MAX + 1)}
    assert decode_since(encode_since(many)) is None
    with pytest.raises(ValueError, match="more than 80 declarations"):
        counting_agent(counted=many)
    assert len(counting_agent(counted=dict(list(many.items())[2:])).declared) == DECLARED_MAX


runs = st.lists(st.tuples(st.sets(st.sampled_from(NAMES)), st.integers(0, 9)), max_size=8)


@given(runs)
def test_a_declaration_is_in_force_since_it_was_last_missing(
    runs: list[tuple[set[str], int]],
) -> None:
    """Each run: what its worker declares, and how many records it counts."""
    position, known = 0, cast("Since | None", None)
    held: dict[str, int] = {}  # what this test would say
    for declared, count in runs:
        anew = begun_anew(declared, known)
        assert set(anew) == (set() if known is None else declared - held.keys())
        held = {name: held.get(name, position) for name in declared}
        known = decode_since(encode_since(since_at(declared, known, position)))
        known = known if declared else {}
        assert known == {fingerprint(name): at for name, at in held.items()}
        position += count


def test_what_was_never_told_counts_from_here_on_and_nothing_of_it_is_void() -> None:
    assert since_at(NAMES, None, 7) == {fingerprint(name): 7 for name in NAMES}
    assert begun_anew(NAMES, None) == []


def test_nothing_is_in_force_since_an_offset_yet_to_come() -> None:
    known = {fingerprint(NAMES[0]): 90}
    assert since_at(NAMES[:1], known, 40) == {fingerprint(NAMES[0]): 40}


def point(told: Sequence[TableSpec] | None, at: int = 40) -> StartPoint:
    """Where the group stands, as a task with these tables committed it (None: a former version)."""
    since = {} if told is None else {fingerprint(table.identity): 0 for table in told}
    return StartPoint(at, 0, encode_metadata(Lanes(), Counts(applied=at), since))


def kept(store: Store) -> Task:
    """A task whose store holds a row of each table, at source offset 40."""
    held = {COUNTS.identity: {b"a": b"1", b"b": b"2"}, OTHER.identity: {b"a": b"3"}}
    store.write(held, Positions(9, 40))
    return Task(TaskId("source", 0), counting_agent(tables=(COUNTS, OTHER)), store)


def test_a_table_that_is_declared_anew_starts_empty_and_the_others_do_not(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    task = kept(store)
    with caplog.at_level(logging.INFO):
        start = _start(task, point([OTHER]))
    assert (rows(store), rows(store, OTHER)) == ({}, {b"a": b"3"})
    assert store.positions() == Positions(9, 40)
    assert start.anew == {COUNTS.identity: 40}
    (line,) = caplog.messages
    assert line.startswith("source/0: declared anew, or otherwise than before: counts; ")
    assert "counted from offset 40 on" in line

    task.start(start.position, start.lanes, start.counts, start.since, start.anew)
    commit = task.take()
    assert commit.anew == {COUNTS.identity: 40}
    told = {fingerprint(COUNTS.identity): 40, fingerprint(OTHER.identity): 0}
    assert declared_in(commit.metadata()) == told
    assert task.take().anew == {}


@pytest.mark.parametrize("told", [None, (COUNTS, OTHER), (COUNTS, OTHER, COUNTS)])
def test_a_table_that_was_there_or_of_which_nothing_was_told_keeps_its_rows(
    store: Store, told: Sequence[TableSpec] | None, caplog: pytest.LogCaptureFixture
) -> None:
    task = kept(store)
    with caplog.at_level(logging.INFO):
        start = _start(task, point(told))
    assert (rows(store), rows(store, OTHER)) == ({b"a": b"1", b"b": b"2"}, {b"a": b"3"})
    assert (start.anew, caplog.messages) == ({}, [])
    assert set(start.since.values()) == ({40} if told is None else {0})


def test_what_a_step_counts_outside_tables_is_told_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = counting_agent(tables=(), changelog=None, counted={"minutes": "window-1"})
    task = Task(TaskId("source", 0), agent, None)
    with caplog.at_level(logging.INFO):
        start = _start(task, point([OTHER]))
    assert (start.since, start.anew) == ({fingerprint("window-1"): 40}, {})
    assert "declared anew, or otherwise than before: minutes; " in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.one_of(st.none(), st.just(b"1"))),
            st.just((None, b"5")),
        ),
        max_size=20,
    ),
    st.integers(1, 5),
)
def test_a_restore_brings_nothing_back_of_before_a_table_began_anew(
    store: Store, written: list[tuple[bytes | None, bytes | None]], batch: int
) -> None:
    wanted: dict[bytes, bytes] = {}
    log = []
    for at, (key, value) in enumerate([(None, b"0"), *written]):
        if key is None:
            wanted = {}
            log.append(Record(at, since_key(COUNTS.identity), value))
            continue
        log.append(Record(at, row_record_key(COUNTS.identity, key), value))
        wanted.pop(key, None)
        if value is not None:
            wanted[key] = value
    log.append(Record(len(log), since_key("unknown-1"), b"5"))
    log.append(Record(len(log), row_record_key(OTHER.identity, b"a"), b"3"))
    log.append(Record(len(log), POSITION_KEY, b"77"))
    for first in range(0, len(log), batch):
        apply_records(store, cast("list[ck.Message]", log[first : first + batch]))
    assert (rows(store), rows(store, OTHER)) == (wanted, {b"a": b"3"})
    assert store.positions() == Positions(len(log), 77)
