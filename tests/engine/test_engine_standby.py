"""Standbys on a real broker: current, honest about their age, and gone when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

from app.engine import standby, standby_tail
from app.engine.changelog import POSITION_KEY, row_record_key
from app.engine.clock import SystemClock
from app.engine.epoch import TaskId
from app.engine.metrics import EngineMetrics
from app.engine.query import NotReadyError
from app.engine.standby import StandbyRows, Standbys
from app.engine.standby_tail import Standby
from app.engine.store import Positions, Store
from app.engine.stores import Stores
from tests.engine.rig import COUNTS, PATIENCE_S, counting_agent, engine_config
from tests.engine.test_engine_restore_changelogs import corrupt
from tests.system.topics import make_topics

pytestmark = pytest.mark.broker

ZERO, ONE = TaskId("source", 0), TaskId("source", 1)


async def until(what: str, probe: Callable[[], bool]) -> None:
    """Ask until it is so; fail naming what was awaited."""

    async def asked() -> None:
        while not probe():  # noqa: ASYNC110 - what is awaited happens in another thread
            await asyncio.sleep(0.01)

    try:
        await asyncio.wait_for(asked(), PATIENCE_S)
    except TimeoutError:
        pytest.fail(f"{what}: not within {PATIENCE_S:.0f} s")


@dataclass
class World:
    """A changelog of two partitions, and the standbys of one worker."""

    bootstrap: str
    namespace: str
    data_dir: Path

    def __post_init__(self) -> None:
        self.changelog = f"{self.namespace}.source-changelog"
        make_topics(self.bootstrap, NewTopic(self.changelog, 2, 1))
        self.registry = CollectorRegistry()
        config = engine_config(
            self.data_dir,
            bootstrap=self.bootstrap,
            group=self.namespace,
            physical=lambda topic: f"{self.namespace}.{topic}",
        )
        self.stores = Stores(config)
        self.standbys = Standbys(
            config,
            {"source": counting_agent()},
            self.stores,
            SystemClock(),
            EngineMetrics(self.registry),
        )

    def open(self, task: TaskId) -> Store:
        store = self.stores.take(task, counting_agent())
        assert store is not None
        return store

    def close(self, task: TaskId, store: Store) -> None:
        self.stores.give(task, store)
        self.stores.close_idle()

    def producer(self) -> ck.Producer:
        producer = ck.Producer(
            {"bootstrap.servers": self.bootstrap, "transactional.id": f"{self.namespace}-0"}
        )
        producer.init_transactions(PATIENCE_S)
        return producer

    def write(self, producer: ck.Producer, rows: Sequence[tuple[bytes, int]], source: int) -> None:
        """One epoch's records of partition 0, inside the transaction that is open."""
        for key, count in rows:
            record_key = row_record_key(COUNTS.identity, key)
            producer.produce(self.changelog, b"%d" % count, record_key, 0)
        producer.produce(self.changelog, b"%d" % source, POSITION_KEY, 0)
        assert producer.flush(PATIENCE_S) == 0

    def commit(self, producer: ck.Producer, rows: Sequence[tuple[bytes, int]], source: int) -> None:
        producer.begin_transaction()
        self.write(producer, rows, source)
        producer.commit_transaction(PATIENCE_S)

    def standby(self, task: TaskId = ZERO) -> Standby | None:
        try:
            return self.standbys.find(task)
        except NotReadyError:
            return None

    def get(self, key: bytes, task: TaskId = ZERO) -> int | None:
        standby = self.standby(task)
        return None if standby is None else StandbyRows(standby.store, COUNTS).get(key)

    @property
    def lag(self) -> float | None:
        return self.registry.get_sample_value("state_store_lag", {"table": "source"})


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    following = asyncio.create_task(world.standbys.run())
    try:
        yield world
    finally:
        following.cancel()
        await asyncio.wait([following])
        await world.standbys.close()
        world.stores.close_idle()


@pytest.fixture
def world(kafka: str, namespace: str, tmp_path: Path) -> World:
    return World(kafka, namespace, tmp_path)


async def test_a_standby_follows_what_is_committed_and_nothing_else(world: World) -> None:
    producer = world.producer()
    world.commit(producer, [(b"a", 1), (b"b", 1)], 10)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("the first epoch", lambda: world.get(b"b") == 1)

        producer.begin_transaction()
        world.write(producer, [(b"a", 99)], 11)
        producer.abort_transaction(PATIENCE_S)
        world.commit(producer, [(b"b", 2)], 12)
        standby = world.standby()
        assert standby is not None
        await until("the third epoch", lambda: standby.store.positions().source == 12)
        assert (world.get(b"a"), world.get(b"b")) == (1, 2)
        rows = StandbyRows(standby.store, COUNTS)
        assert list(rows.range(b"", None, limit=10)) == [(b"a", 1), (b"b", 2)]
        stored = rows.stored(b"b", None, limit=10)
        assert [(key, COUNTS.aggregate.decode(raw)) for key, raw in stored] == [(b"b", 2)]


async def test_an_open_transaction_leaves_a_standby_current(world: World) -> None:
    producer = world.producer()
    world.commit(producer, [(b"a", 1)], 10)
    producer.begin_transaction()
    world.write(producer, [(b"a", 2)], 11)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("the end of what is committed", lambda: world.standby() is not None)
        standby = world.standby()
        assert standby is not None
        assert (world.get(b"a"), standby.lag) == (1, 0)
        await until("the gauge, set after each look", lambda: world.lag == 0)
        seen = standby.current_at_s
        assert seen is not None
        # Nothing more comes, but the broker says each time that nothing has.
        await until("a later look", lambda: (standby.current_at_s or 0.0) > seen)
        producer.abort_transaction(PATIENCE_S)


async def test_a_standby_that_was_never_at_the_end_does_not_answer(world: World) -> None:
    await world.standbys.keep([ZERO])
    with pytest.raises(NotReadyError):
        world.standbys.find(ZERO)
    assert world.standbys.find(ONE) is None
    async with running(world):
        await until("the end of an empty changelog", lambda: world.standby() is not None)


async def test_what_is_kept_no_more_is_taken_by_its_owner_as_it_stands(world: World) -> None:
    producer = world.producer()
    world.commit(producer, [(b"a", 1)], 10)
    async with running(world):
        await world.standbys.keep([ZERO, ONE])
        await until("both", lambda: world.get(b"a") == 1 and world.standby(ONE) is not None)
        standby = world.standby()
        assert standby is not None
        position = standby.position

        await world.standbys.keep([ONE])
        owned = world.open(ZERO)
        assert world.standbys.find(ZERO) is None
        # Behind the marker of the last transaction: its owner has nothing left to read.
        assert owned.positions() == Positions(changelog=position, source=10)
        assert owned.get(COUNTS.identity, b"a") == b"1"
        assert world.standby(ONE) is not None
        world.close(ZERO, owned)

        await world.standbys.keep([])
        assert world.lag is None


async def test_the_owner_of_before_goes_on_as_a_standby(world: World) -> None:
    producer = world.producer()
    owned = world.open(ZERO)
    owned.write({COUNTS.identity: {b"kept": b"7"}}, Positions(changelog=0, source=9))
    world.close(ZERO, owned)
    world.commit(producer, [(b"a", 1)], 10)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("what was committed since", lambda: world.get(b"a") == 1)
        assert world.get(b"kept") == 7


async def test_a_store_ahead_of_its_changelog_is_rebuilt(world: World) -> None:
    foreign = world.open(ZERO)
    foreign.write({COUNTS.identity: {b"foreign": b"7"}}, Positions(changelog=1_000, source=9))
    world.close(ZERO, foreign)
    world.commit(world.producer(), [(b"a", 1)], 10)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("the rebuilt state", lambda: world.get(b"a") == 1)
        assert world.get(b"foreign") is None


async def test_a_standby_whose_files_are_corrupt_is_set_aside_and_rebuilt(world: World) -> None:
    damaged = world.open(ZERO)
    folder = damaged.path
    damaged.write({COUNTS.identity: {b"old": b"7"}}, Positions(changelog=0, source=9))
    world.close(ZERO, damaged)
    corrupt(folder)
    world.commit(world.producer(), [(b"a", 1)], 10)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("the rebuilt state", lambda: world.get(b"a") == 1)
        assert world.get(b"old") is None
    assert list(folder.with_name(folder.name + ".aside").glob("*.sst"))


@pytest.fixture
def held(world: World) -> Store:
    """The store of the first partition, open elsewhere."""
    store = Stores(engine_config(world.data_dir)).take(ZERO, counting_agent())
    assert store is not None
    return store


async def test_a_store_that_another_has_open_keeps_no_other_standby_waiting(
    world: World, held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby_tail, "OPEN_AGAIN_S", 0.2)
    world.commit(world.producer(), [(b"a", 1)], 1)
    async with running(world):
        await world.standbys.keep([ZERO, ONE])
        await until("the other one", lambda: world.standby(ONE) is not None)
        following = world.standby(ONE)
        assert following is not None
        database = following.store._db
        assert world.standby(ZERO) is None
        held.close()
        await until("its rows, once it is free", lambda: world.get(b"a") == 1)
        following = world.standby(ONE)
        assert following is not None
        assert following.store._db is database, "it was not opened anew"


async def test_where_no_store_can_be_opened_standbys_begin_again(
    world: World, held: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "RETRY_S", 0.05)
    world.commit(world.producer(), [(b"a", 1)], 1)
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("two attempts", lambda: caplog.text.count("no standby of source/0") > 1)
        held.close()
        await until("its rows, once it is free", lambda: world.get(b"a") == 1)


async def test_a_broker_that_does_not_answer_is_asked_again(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.standby_tail._REQUEST_S", 0.2)
    world.standbys._tail._client_config["bootstrap.servers"] = "127.0.0.1:1"
    world.standbys._tail._client_config["log_level"] = 0
    async with running(world):
        await world.standbys.keep([ZERO])
        await until("a failure", lambda: "standbys begin again" in caplog.text)
        with pytest.raises(NotReadyError):
            world.standbys.find(ZERO)
        monkeypatch.undo()
        world.standbys._tail._client_config["bootstrap.servers"] = world.bootstrap
        world.standbys._tail._admin = None
        await until("the end of the changelog", lambda: world.standby() is not None)
