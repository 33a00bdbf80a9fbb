"""Changelogs as they get in years of use, on a real broker: compacted, trimmed, held, corrupt."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from app.engine.epoch import TaskId
from app.engine.progress import STALL_S, Progress
from app.engine.restore import Restorer
from app.engine.starts import Start, Starter
from app.engine.store import Store, StoreError
from app.engine.task import Task
from tests.engine.rig import COUNTS, PATIENCE_S, SOURCE, ManualClock
from tests.engine.test_engine_restore import World, position, row

pytestmark = pytest.mark.broker

COMPACTION_S = 120.0
CHANGELOG = "source-changelog"


@pytest.fixture
def world(kafka: str, namespace: str, tmp_path: Path) -> Iterator[World]:
    made = World(kafka, namespace, tmp_path)
    yield made
    made.close()


# -- compacted --------------------------------------------------------------------------------


def altered(
    admin: AdminClient, kind: ResourceType, name: str, settings: dict[str, str | None]
) -> None:
    """Change settings while the broker runs; None goes back to the default."""
    entries = [
        ConfigEntry(
            key,
            value or "",
            incremental_operation=AlterConfigOpType.SET if value else AlterConfigOpType.DELETE,
        )
        for key, value in settings.items()
    ]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(PATIENCE_S)


@contextlib.contextmanager
def eager_cleaner(world: World) -> Iterator[None]:
    """Compact this changelog at once and all of it, but for the segment being written."""
    altered(
        world.admin,
        ResourceType.TOPIC,
        world.topic(CHANGELOG),
        {
            "cleanup.policy": "compact",
            "segment.ms": "50",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "1",
        },
    )
    brokers = [str(node) for node in world.admin.list_topics(timeout=PATIENCE_S).brokers]
    for broker in brokers:
        altered(world.admin, ResourceType.BROKER, broker, {"log.cleaner.backoff.ms": "100"})
    try:
        yield
    finally:
        for broker in brokers:
            altered(world.admin, ResourceType.BROKER, broker, {"log.cleaner.backoff.ms": None})


def left(world: World) -> list[tuple[int, bytes | None]]:
    """Offset and key of each record that a committed reader still finds, to the end."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": world.bootstrap,
            "group.id": f"{world.namespace}-look",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([ck.TopicPartition(world.topic(CHANGELOG), 0, 0)])
    found: list[tuple[int, bytes | None]] = []
    while True:
        for message in consumer.consume(1_000, 0.05):
            error = message.error()
            if error is None:
                found.append((message.offset() or 0, message.key()))
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                consumer.close()
                return found


async def test_a_compacted_changelog_gives_the_latest_rows(world: World) -> None:
    producer, behind = world.producer(), world.task()
    latest: dict[bytes, int] = {}
    with eager_cleaner(world):
        at = 0
        for at in range(1, 61):
            rows = [row(b"often", at), row(b"key-%d" % (at % 7), at), row(b"gone-%d" % at, at)]
            latest |= {b"often": at, b"key-%d" % (at % 7): at}
            world.write(producer, [*rows, position(at)], at)
            if at % 5 == 0:
                world.write(
                    producer, [row(b"often", -1), row(b"ghost", 1), position(999)], abort=True
                )
            if at == 30:
                await world.starts(behind)  # it stands amid what will be compacted
            world.write(producer, [row(b"gone-%d" % at, None)])
        written = left(world)[-1][0]

        async def compacted() -> None:
            nonlocal at
            # The segment being written is never compacted: write on until what was written
            # lies in older ones.
            while sum(offset <= written for offset, _ in left(world)) > 100:
                at += 1
                await asyncio.to_thread(world.write, producer, [position(at)], at)

        await asyncio.wait_for(compacted(), COMPACTION_S)
        found = [key for offset, key in left(world) if offset <= written]
        assert found.count(row(b"often", 1)[0]) == 1
        empty = world.task("lost-disk")
        for task in (behind, empty):
            start, _ = await world.starts(task)
            assert start.position == at
            assert world.rows(task) == {key: b"%d" % value for key, value in latest.items()}


async def test_a_changelog_trimmed_while_it_is_read_is_read_from_what_is_left(
    world: World,
) -> None:
    noise, producer = random.Random(1), world.producer()
    for at in range(1, 41):
        filler = [(b"filler", noise.randbytes(50_000))]
        world.write(producer, [*filler, row(b"key-%d" % at, at), position(at)], at)
    end = left(world)[-1][0] + 2  # behind the last marker
    restorer = Restorer(world.config)
    # One transaction a fetch, so that the end is not yet fetched when the beginning goes.
    restorer._consumer_config |= {"queued.min.messages": 1, "max.partition.fetch.bytes": 1_000}
    task, progress = world.task(), Progress()
    trimmed: list[int] = []
    given_up = threading.Event()

    def trim_once_begun() -> bool:
        if progress.records and not trimmed:
            world.trim(CHANGELOG, end - 8)
            trimmed.append(progress.passed)
        return given_up.is_set()

    stores = {SOURCE: (world.topic(CHANGELOG), world.store_of(task))}
    reading = asyncio.to_thread(restorer.catch_up, stores, progress, trim_once_begun)
    try:
        await asyncio.wait_for(reading, PATIENCE_S)
    finally:
        given_up.set()
    assert min(trimmed) < end - 8, "all was read before it was trimmed"
    assert progress.passed == end
    assert world.store_of(task).positions().source == 40
    rows = world.rows(task)
    assert (rows[b"key-39"], rows[b"key-40"]) == (b"39", b"40")
    assert len(rows) < 40


# -- corrupt ----------------------------------------------------------------------------------


def corrupt(folder: Path) -> None:
    """Damage the first block of each data file, which opening does not read."""
    files = list(folder.glob("*.sst"))
    assert files
    for path in files:
        raw = bytearray(path.read_bytes())
        raw[:16] = bytes(16)
        path.write_bytes(raw)


async def test_a_store_whose_files_are_corrupt_is_set_aside_and_rebuilt(world: World) -> None:
    world.write(world.producer(), [row(b"a", 1), row(b"b", 2), position(3)], 3)
    task = world.task()
    await world.starts(task)
    folder = world.store_of(task).path
    task.close()
    corrupt(folder)
    task = world.task()
    with pytest.raises(StoreError, match="Corruption"):
        world.store_of(task).positions()
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (3, {b"a": b"1", b"b": b"2"})
    aside = folder.with_name(folder.name + ".aside")
    assert list(aside.glob("*.sst")), "what was corrupt is kept for whoever wants to look"


async def test_a_corrupt_row_is_an_error_not_an_end(world: World) -> None:
    world.write(world.producer(), [row(b"%04d" % i, i) for i in range(2_000)])
    task = world.task()
    await world.starts(task)
    folder = world.store_of(task).path
    task.close()
    corrupt(folder)
    store: Store = world.store_of(world.task())
    with pytest.raises(StoreError, match="Corruption") as ranged:
        store.range(COUNTS.identity, b"", None, limit=5_000)
    with pytest.raises(StoreError, match="Corruption") as got:
        store.get(COUNTS.identity, b"0000")
    with pytest.raises(StoreError, match="Corruption") as stood:
        store.positions()
    assert store.damaged
    store.reset()  # what is known of the errors does not hold the folder
    assert (store.damaged, store.get(COUNTS.identity, b"0000")) == (False, None)
    assert all(each.value.__traceback__ for each in (ranged, got, stood))


# -- held -------------------------------------------------------------------------------------


@dataclass
class Standing:
    """A restore that stands still until its test moves it."""

    starter: Starter
    clock: ManualClock
    starting: asyncio.Task[Mapping[TaskId, Start] | None]

    async def says(self, records: int = 0) -> str:
        """What is said of it once it has read so many records, and stalled."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.has_read(records):  # noqa: ASYNC110 - a thread reads
                await asyncio.sleep(0.01)
            while not (self.starter.progress.cause and self.starter.progress.stalled()):
                self.clock.advance(STALL_S)
                await asyncio.sleep(0.05)
        return str(self.starter.progress)

    def has_read(self, records: int) -> bool:
        progress = self.starter.progress
        return progress.waiting_for != "" and progress.records >= records

    async def ends(self) -> bool:
        """Whether it came to its end."""
        return await asyncio.wait_for(self.starting, PATIENCE_S) is not None


@asynccontextmanager
async def restoring(world: World, task: Task) -> AsyncIterator[Standing]:
    clock = ManualClock()
    starter = Starter(world.config, clock)
    starting = asyncio.create_task(starter.starts([task]))
    try:
        yield Standing(starter, clock, starting)
    finally:
        starter.cancel()
        await asyncio.wait([starting])
        starter.close()


async def test_a_stall_names_the_transaction_that_holds_the_committed_offsets(
    world: World,
) -> None:
    producer = world.producer()
    world.begin(producer, [position(2)], 2)
    async with restoring(world, world.task()) as standing:
        said = await standing.says()
        assert "waiting for the group's committed offsets" in said
        held = f"{world.topic('source')}/0"
        assert f"a transaction that its producer has not ended holds {held}" in said
        producer.abort_transaction(PATIENCE_S)
        assert await standing.ends()
        assert standing.starter.progress.waiting_for == ""


async def test_a_stall_names_the_transaction_that_holds_the_changelog(world: World) -> None:
    producer, task = world.producer(), world.task()
    world.write(producer, [row(b"a", 1), position(1)], 1)
    world.begin(producer, [row(b"a", 2), row(b"b", 2), position(2)])
    async with restoring(world, task) as standing:
        said = await standing.says(records=2)
        assert "2 changelog records" in said
        held = f"{world.topic(CHANGELOG)}/0 (last stable offset 3, 3 before the end)"
        assert f"an open transaction holds {held}" in said
        producer.commit_transaction(PATIENCE_S)
        assert await standing.ends()
        assert world.rows(task) == {b"a": b"2", b"b": b"2"}


async def test_a_stall_names_a_broker_that_does_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.engine.restore._STABLE_S", 0.2)
    monkeypatch.setattr("app.engine.offsets._ANSWER_S", 0.2)
    world.config = replace(world.config, bootstrap="127.0.0.1:1")
    async with restoring(world, world.task()) as standing:
        said = await standing.says()
        assert f"the coordinator of group {world.namespace} does not answer" in said
        standing.starter.cancel()
        assert not await standing.ends()
