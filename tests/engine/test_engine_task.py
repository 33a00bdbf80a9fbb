"""Three layers of state: a step reads its own writes, a query reads what is committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.cache import RowCache
from app.engine.counts import Counts, decode_metadata
from app.engine.effects import Effects, Output, Partials
from app.engine.epoch import OpenEpoch, TaskId
from app.engine.lanes import LIVE, Lanes
from app.engine.layers import CommittedRows, Layers
from app.engine.store import Positions, Store
from app.engine.store_memory import StoreMemory
from app.engine.task import Task, TaskState
from tests.engine.rig import COUNTS, REPARTITION, Sum, counting_agent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "0", [COUNTS.identity], StoreMemory(8 << 20))
    yield made
    made.close()


@pytest.fixture
def layers(store: Store) -> Layers:
    return Layers(COUNTS, store)


def write_through(store: Store, layers: Layers) -> None:
    """What the epochs thread does with what is in flight, then settle."""
    encode = Sum().encode
    rows = {k: None if s is None else encode(s) for k, s in layers._in_flight.items()}
    store.write({COUNTS.identity: rows}, Positions())
    layers.settle(rows)


def test_a_step_sees_open_then_in_flight_then_committed(store: Store, layers: Layers) -> None:
    committed = CommittedRows(layers)
    layers.merge({b"a": 1})
    assert (layers.get(b"a"), committed.get(b"a")) == (1, None)
    layers.take()
    assert (layers.get(b"a"), committed.get(b"a")) == (1, None)
    layers.merge({b"a": 10})
    assert (layers.get(b"a"), committed.get(b"a")) == (11, None)
    write_through(store, layers)
    assert (layers.get(b"a"), committed.get(b"a")) == (11, 1)
    layers.take()
    write_through(store, layers)
    assert (layers.get(b"a"), committed.get(b"a")) == (11, 11)


def test_what_was_taken_never_changes(layers: Layers) -> None:
    layers.merge({b"a": 1, b"b": 2})
    taken = layers.take()
    layers.merge({b"a": 10})
    layers.delete([b"b"])
    assert taken == {b"a": 1, b"b": 2}
    assert (layers.get(b"a"), layers.get(b"b")) == (11, None)


def test_a_dropped_epoch_leaves_the_store_as_the_truth(store: Store, layers: Layers) -> None:
    layers.merge({b"a": 1})
    layers.take()
    write_through(store, layers)
    layers.merge({b"a": 10})
    layers.take()
    layers.merge({b"a": 100, b"new": 1})
    layers.drop()
    assert (layers.get(b"a"), layers.get(b"new"), layers.dirty) == (1, None, 0)


def test_a_deleted_row_is_gone_in_each_layer_and_can_come_back(
    store: Store, layers: Layers
) -> None:
    layers.merge({b"a": 5})
    layers.take()
    write_through(store, layers)
    layers.delete([b"a"])
    assert (layers.get(b"a"), layers.committed(b"a")) == (None, 5)
    assert layers.take() == {b"a": None}
    assert layers.get(b"a") is None
    layers.merge({b"a": 1})
    assert layers.get(b"a") == 1
    write_through(store, layers)
    assert (layers.get(b"a"), layers.committed(b"a")) == (1, None)


def test_settling_tells_what_was_committed(layers: Layers) -> None:
    layers.merge({b"a": 1})
    layers.delete([b"b"])
    layers.take()
    assert layers.settle({b"a": b"1", b"b": None}) == {b"a": 1, b"b": None}
    assert layers.settle({}) == {}


def test_the_cache_is_bounded_by_bytes_and_never_wrong(tmp_path: Path) -> None:
    memory = StoreMemory(8 << 20)
    memory.rows = RowCache(6)
    store = Store(tmp_path / "bounded", [COUNTS.identity], memory)
    layers = Layers(COUNTS, store)
    keys = [b"%d" % i for i in range(9)]
    layers.merge({key: int(key) + 1 for key in keys})
    layers.take()
    write_through(store, layers)
    # A key of one byte and a value of one byte weigh two: three rows fit into six.
    assert 0 < len(memory.rows) <= 3
    assert [layers.committed(key) for key in keys] == list(range(1, 10))
    assert 0 < len(memory.rows) <= 3
    store.close()


def test_a_row_larger_than_half_the_cache_is_read_each_time() -> None:
    rows = RowCache(20)
    one, other = rows.table(), rows.table()
    assert one.put({b"key": "state"}, {b"key": bytes(8)}) == (1, 8)
    assert one.get(b"key") is None
    one.put({b"key": "state"}, {b"key": bytes(7)})
    assert (one.get(b"key"), other.get(b"key")) == ("state", None)
    one.put({b"key": "wide"}, {b"key": bytes(8)})  # what was kept is no longer true
    assert (one.get(b"key"), len(rows)) == (None, 0)


_CACHED = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"dd"]), st.integers(0, 9)),
        st.sampled_from([b"a", b"b", b"c", b"dd"]),
    ),
    max_size=40,
)


@given(_CACHED, st.integers(0, 40))
def test_a_cache_holds_what_was_put_last_or_nothing_and_never_more_than_its_bytes(
    steps: list[tuple[int, dict[bytes, int], bytes]], bytes_max: int
) -> None:
    cache = RowCache(bytes_max)
    tables = [cache.table(), cache.table()]
    truth: list[dict[bytes, int]] = [{}, {}]
    for which, sizes, asked in steps:
        states = {key: size or None for key, size in sizes.items()}
        stored = {key: size for key, size in sizes.items() if size}
        raw = {key: bytes(size) for key, size in stored.items()}
        assert tables[which].put(states, raw) == (len(stored), sum(stored.values()))
        truth[which] = {k: v for k, v in {**truth[which], **states}.items() if v is not None}
        for table, known in zip(tables, truth, strict=True):
            assert table.get(asked) in (None, known.get(asked))
        # One that is old, and was put anew since, is held twice.
        held = [
            len(key) + known[key]
            for table, known in zip(tables, truth, strict=True)
            for key in known
            if table.get(key) is not None
        ]
        assert sum(held) <= bytes_max


def test_ranges_and_scans_see_committed_rows_only(store: Store, layers: Layers) -> None:
    layers.merge({b"aa": 1, b"ab": 2, b"b": 3})
    layers.take()
    write_through(store, layers)
    layers.merge({b"ac": 9, b"aa": 9})
    assert list(layers.range(b"a", b"b", limit=9)) == [(b"aa", 1), (b"ab", 2)]
    assert list(layers.range(b"", None, limit=2, reverse=True)) == [(b"b", 3), (b"ab", 2)]
    assert list(layers.scan(b"a", 9)) == [(b"aa", 1), (b"ab", 2)]
    assert list(layers.scan(b"a", 1)) == [(b"aa", 1)]
    assert list(CommittedRows(layers).range(b"b", None, limit=1)) == [(b"b", 3)]
    stored = CommittedRows(layers).stored(b"", b"b", limit=9, reverse=True)
    assert [(key, COUNTS.aggregate.decode(raw)) for key, raw in stored] == [(b"ab", 2), (b"aa", 1)]


_KEYS = st.sampled_from([b"a", b"b", b"c"])
_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("merge"), st.dictionaries(_KEYS, st.integers(1, 9), min_size=1)),
        st.tuples(st.just("delete"), st.lists(_KEYS, min_size=1, max_size=2)),
        st.tuples(st.just("commit"), st.none()),
        st.tuples(st.just("abort"), st.none()),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(_ACTIONS)
def test_layers_behave_like_a_dict_that_can_go_back_to_its_last_commit(
    store: Store, actions: list[tuple[str, object]]
) -> None:
    store.write({COUNTS.identity: dict.fromkeys((b"a", b"b", b"c"), None)}, Positions())
    layers = Layers(COUNTS, store)
    now: dict[bytes, int] = {}
    saved: dict[bytes, int] = {}
    for action, given_ in actions:
        if action == "merge" and isinstance(given_, dict):
            layers.merge(given_)
            for key, value in given_.items():
                now[key] = now.get(key, 0) + value
        elif action == "delete" and isinstance(given_, list):
            layers.delete(given_)
            for key in given_:
                now.pop(key, None)
        elif action == "commit":
            layers.take()
            write_through(store, layers)
            saved = dict(now)
        else:
            layers.drop()
            now = dict(saved)
        for key in (b"a", b"b", b"c"):
            assert layers.get(key) == now.get(key)
            assert layers.committed(key) == saved.get(key)


def test_a_task_takes_position_lanes_and_changes_together(store: Store) -> None:
    task = Task(TaskId("source", 0), counting_agent(), store)
    assert task.state is TaskState.RESTORING
    lanes = Lanes().advanced({LIVE: (5, 6)})
    task.start(40, Lanes(), Counts(applied=40))
    task.apply(
        Effects(updates={"counts": {b"a": 2}}, deletes={"counts": [b"b"]}, lanes=lanes, applied=3)
    )
    task.position = 43
    assert task.dirty == 2
    taken = task.take()
    assert (taken.position, taken.lanes, taken.changelog) == (43, lanes, "source-changelog")
    assert taken.changes == {COUNTS: {b"a": 2, b"b": None}}
    assert decode_metadata(taken.metadata()) == (lanes, Counts(applied=43))
    assert task.dirty == 0


def test_starting_forgets_what_was_not_committed(store: Store) -> None:
    task = Task(TaskId("source", 0), counting_agent(), store)
    task.start(0, Lanes(), Counts())
    task.apply(Effects(updates={"counts": {b"a": 2}}))
    task.stop()
    assert task.state is TaskState.RESTORING
    task.start(7, Lanes(), Counts())
    assert (task.position, task.dirty, task.table("counts").get(b"a")) == (7, 0, None)


def test_a_task_without_tables_has_no_changelog() -> None:
    task = Task(TaskId("source", 0), counting_agent(tables=(), changelog=None), None)
    task.start(3, Lanes(), Counts())
    assert (task.take().changelog, task.take().changes) == (None, {})


def test_tables_and_changelog_go_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        counting_agent(changelog=None)
    with pytest.raises(ValueError, match="go together"):
        counting_agent(tables=())


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)), max_size=8))
def test_an_epoch_holds_the_merge_of_all_partials(batches: list[dict[str, int]]) -> None:
    held = OpenEpoch()
    copies = [dict(values) for values in batches]
    for values in batches:
        held.rekey("source", Partials(REPARTITION, values))
    merged = held.rekeyed["source", "partials"].values if batches else {}
    assert merged == {
        key: sum(values.get(key, 0) for values in batches) for values in batches for key in values
    }
    assert batches == copies
    assert held.size() == len(merged)


def test_an_epoch_knows_how_much_it_holds() -> None:
    held = OpenEpoch()
    held.emit(Output("out", b"key", b"value"))
    held.emit(Output("out", None, None))
    assert (held.size(), held.output_bytes) == (2, 8)
