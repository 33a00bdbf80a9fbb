"""Ranges that are dropped as a whole: one answer from layers, store and changelog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

import confluent_kafka as ck
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine import layers as layers_module
from app.engine.changelog import row_record_key
from app.engine.effects import Effects, KeyRange
from app.engine.epoch import TaskId
from app.engine.layers import CommittedRows, Layers
from app.engine.restore import apply_records
from app.engine.store import Positions, Store
from app.engine.store_memory import StoreMemory
from app.engine.task import Task
from tests.engine.rig import COUNTS, Sum, counting_agent


@dataclass
class Record:
    """A changelog record, as the consumer gives it."""

    at: int
    raw_key: bytes
    raw_value: bytes | None

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return self.raw_key

    def value(self) -> bytes | None:
        return self.raw_value


class Partition:
    """One table with its store, and the changelog that its epochs have written."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.layers = Layers(COUNTS, store)
        self.changelog: list[Record] = []
        self._rows: dict[bytes, bytes | None] = {}
        self._dropped: list[KeyRange] = []

    def take(self) -> None:
        self._dropped = self.layers.take_dropped()
        encode = Sum().encode
        self._rows = {
            key: None if state is None else encode(state)
            for key, state in self.layers.take().items()
        }

    def store_it(self) -> None:
        """What the epochs thread does once the epoch is committed, and settling."""
        for key, value in self._rows.items():
            record_key = row_record_key(COUNTS.identity, key)
            self.changelog.append(Record(len(self.changelog), record_key, value))
        self.store.write(
            {COUNTS.identity: self._rows}, Positions(), {COUNTS.identity: self._dropped}
        )
        self.layers.settle(self._rows)

    def rows(self) -> dict[bytes, bytes]:
        return stored(self.store)


def stored(store: Store) -> dict[bytes, bytes]:
    return dict(store.range(COUNTS.identity, b"", None, limit=1_000))


@pytest.fixture
def memory() -> StoreMemory:
    return StoreMemory(8 << 20)


@pytest.fixture
def partition(tmp_path: Path, memory: StoreMemory) -> Iterator[Partition]:
    store = Store.open(tmp_path / "0", [COUNTS.identity], memory)
    yield Partition(store)
    store.close()


@pytest.fixture
def restored(tmp_path: Path, memory: StoreMemory) -> Iterator[Store]:
    store = Store.open(tmp_path / "restored", [COUNTS.identity], memory)
    yield store
    store.close()


def restore(store: Store, records: Iterable[Record], batch: int) -> dict[bytes, bytes]:
    """The rows of an emptied store after reading records, so many at a time."""
    store.write({COUNTS.identity: dict.fromkeys(stored(store), None)}, Positions())
    left = list(records)
    for first in range(0, len(left), batch):
        apply_records(store, cast("list[ck.Message]", left[first : first + batch]))
    return stored(store)


def compacted(records: list[Record], *, with_tombstones: bool) -> list[Record]:
    """The last record of each key, where it stood; tombstones go in the end as well."""
    last = {record.raw_key: record.at for record in records}
    return [
        record
        for record in records
        if last[record.raw_key] == record.at and (with_tombstones or record.raw_value is not None)
    ]


_EVERY_KEY = [b"%c" % one for one in b"abcd"] + [b"%c%c" % two for two in product(b"abcd", b"abcd")]
_KEYS = st.sampled_from(_EVERY_KEY)
_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("merge"), st.dictionaries(_KEYS, st.integers(1, 9), min_size=1)),
        st.tuples(st.just("delete"), st.lists(_KEYS, min_size=1, max_size=2)),
        st.tuples(st.just("drop"), st.tuples(_KEYS, _KEYS).map(lambda pair: tuple(sorted(pair)))),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("commit"), st.none()),
        st.tuples(st.just("abort"), st.none()),
    ),
    min_size=12,
    max_size=40,
)


class Model:
    """The same in a dict, and what it was at the last commit."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.now: dict[bytes, int] = {}
        self.flying: dict[bytes, int] | None = None
        self.saved: dict[bytes, int] = {}

    def merge(self, partials: dict[bytes, int]) -> None:
        self.partition.layers.merge(partials)
        for key, value in partials.items():
            self.now[key] = self.now.get(key, 0) + value

    def delete(self, keys: list[bytes]) -> None:
        self.partition.layers.delete(keys)
        for key in keys:
            self.now.pop(key, None)

    def drop(self, dropped: KeyRange) -> None:
        lo, hi = dropped
        self.partition.layers.drop_range(lo, hi)
        self.now = {key: value for key, value in self.now.items() if not lo <= key < hi}

    def take(self, _: None) -> None:
        if self.flying is None:
            self.partition.take()
            self.flying = dict(self.now)

    def commit(self, _: None) -> None:
        if self.flying is not None:
            self.partition.store_it()
            self.saved, self.flying = self.flying, None

    def abort(self, _: None) -> None:
        self.partition.layers.drop()
        self.now, self.flying = dict(self.saved), None

    def agrees(self) -> None:
        layers = self.partition.layers
        for key in _EVERY_KEY:
            assert layers.get(key) == self.now.get(key)
            assert layers.committed(key) == self.saved.get(key)
        assert dict(CommittedRows(layers).range(b"", None, limit=99)) == self.saved


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)
@given(_ACTIONS, st.integers(1, 9))
def test_a_dropped_range_is_gone_from_layers_store_and_any_changelog(
    partition: Partition, restored: Store, actions: list[tuple[str, object]], batch: int
) -> None:
    empty = dict.fromkeys(partition.rows(), None)
    partition.store.write({COUNTS.identity: empty}, Positions())
    partition = Partition(partition.store)
    model = Model(partition)
    for action, given_ in actions:
        getattr(model, action)(given_)
        model.agrees()
    saved = model.saved
    rows = {key: Sum().encode(value) for key, value in saved.items()}
    assert partition.rows() == rows
    assert restore(restored, partition.changelog, batch) == rows
    for with_tombstones in (True, False):
        left = compacted(partition.changelog, with_tombstones=with_tombstones)
        assert restore(restored, left, batch) == rows
    # A reader that was amid the log when it was compacted: as the whole of it.
    half = len(partition.changelog) // 2
    seen = partition.changelog[:half]
    later = [r for r in compacted(partition.changelog, with_tombstones=True) if r.at >= half]
    assert restore(restored, [*seen, *later], batch) == rows


def test_a_drop_takes_a_bounded_number_of_rows_from_the_beginning(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers_module, "DROPPED_MAX", 3)
    partition.layers.merge({b"%d" % n: n + 1 for n in range(8)})
    partition.take()
    partition.store_it()
    partition.layers.merge({b"1+": 1, b"6+": 1})  # of the epoch that is open
    partition.layers.drop_range(b"1", b"7")
    assert partition.layers.get(b"1+") is None
    assert partition.layers.get(b"6+") == 1
    partition.take()
    partition.store_it()
    assert set(partition.rows()) == {b"0", b"4", b"5", b"6", b"6+", b"7"}
    tombstones = [r.raw_key for r in partition.changelog if r.raw_value is None]
    assert {key.rpartition(b"\0")[2] for key in tombstones} == {b"1", b"1+", b"2", b"3"}


def test_a_range_of_nothing_writes_nothing(partition: Partition) -> None:
    partition.layers.merge({b"a": 1})
    partition.take()
    partition.store_it()
    partition.layers.drop_range(b"b", b"c")
    assert (partition.layers.dirty, partition.layers.take_dropped()) == (0, [])


def test_a_store_forgets_a_range_before_it_writes_rows(partition: Partition) -> None:
    store, family = partition.store, COUNTS.identity
    store.write({family: dict.fromkeys((b"a", b"b", b"c"), b"1")}, Positions())
    store.write({family: {b"b": b"2", b"a": None}}, Positions(), {family: [(b"a", b"c")]})
    assert partition.rows() == {b"b": b"2", b"c": b"1"}
    assert store.keys(family, b"b", b"c", limit=9) == [b"b"]
    assert store.keys(family, b"a", b"z", limit=1) == [b"b"]


def test_a_task_takes_what_a_step_dropped_with_its_tombstones(partition: Partition) -> None:
    task = Task(TaskId("source", 0), counting_agent(), partition.store)
    partition.store.write({COUNTS.identity: {b"a": b"1", b"b": b"2"}}, Positions())
    task.apply(Effects(drops={"counts": [(b"a", b"b")]}))
    taken = task.take()
    assert taken.changes == {COUNTS: {b"a": None}}
    assert taken.dropped == {COUNTS.identity: [(b"a", b"b")]}
    assert task.take().dropped == {COUNTS.identity: []}
