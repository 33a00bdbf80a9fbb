"""Restoring on a real broker: group, changelog and local store end up saying the same."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiokafka
import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.engine.changelog import POSITION_KEY, row_record_key
from app.engine.clock import SystemClock
from app.engine.counts import Counts, encode_metadata
from app.engine.declared import fingerprint
from app.engine.effects import Effects
from app.engine.epoch import Epoch, TaskCommit, TaskId
from app.engine.lanes import LIVE, Lanes
from app.engine.membership import Membership
from app.engine.progress import Progress
from app.engine.restore import RestoreCancelledError, Restorer, StartPoint
from app.engine.spec import EngineConfig
from app.engine.starts import Start, Starter
from app.engine.store import Positions, Store
from app.engine.store_memory import StoreMemory
from app.engine.task import Task
from app.engine.transaction import CommitFailedError, TransactionalWriter
from tests.engine.rig import COUNTS, PATIENCE_S, SOURCE, Sum, counting_agent, engine_config
from tests.system.topics import make_topics

pytestmark = pytest.mark.broker

LANES = Lanes().advanced({LIVE: (123, 456)})
TALLY = Counts(applied=2)
METADATA = encode_metadata(LANES, TALLY)


NEVER = threading.Event()
"""The epoch is not given up."""


def never() -> bool:
    return False


@dataclass
class World:
    """A source of one partition and its changelog, in a namespace of their own."""

    bootstrap: str
    namespace: str
    data_dir: Path

    def __post_init__(self) -> None:
        self.config: EngineConfig = engine_config(
            self.data_dir,
            bootstrap=self.bootstrap,
            group=self.namespace,
            physical=self.topic,
            partitions={"source": 1},
            transactional_id=f"{self.namespace}-0",
        )
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        make_topics(
            self.bootstrap,
            NewTopic(self.topic("source"), 1, 1),
            NewTopic(
                self.topic("source-changelog"), 1, 1, config={"cleanup.policy": "compact,delete"}
            ),
        )
        self._memory = StoreMemory(8 << 20)
        self._tasks: list[Task] = []

    def topic(self, name: str) -> str:
        return f"{self.namespace}.{name}"

    def task(self, folder: str = "0") -> Task:
        """The task, its store opened in the one folder it always has, or in another."""
        store = Store.open(self.data_dir / folder, [COUNTS.identity], self._memory)
        task = Task(SOURCE, counting_agent(), store)
        self._tasks.append(task)
        return task

    def store_of(self, task: Task) -> Store:
        assert task.store is not None
        return task.store

    def rows(self, task: Task) -> Mapping[bytes, bytes]:
        return dict(self.store_of(task).range(COUNTS.identity, b"", None, limit=1_000))

    def producer(self) -> ck.Producer:
        """A transactional producer of a former owner."""
        producer = ck.Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "transactional.id": f"{self.namespace}-{uuid.uuid4().hex[:6]}",
            }
        )
        producer.init_transactions(PATIENCE_S)
        return producer

    def begin(
        self,
        producer: ck.Producer,
        records: Sequence[tuple[bytes | None, bytes | None]],
        offset: int | None = None,
    ) -> None:
        """Open a transaction with changelog records and, perhaps, a source offset."""
        producer.begin_transaction()
        for key, value in records:
            producer.produce(self.topic("source-changelog"), value, key, 0)
        producer.flush(PATIENCE_S)
        if offset is not None:
            # A consumer that never joined: the broker takes its word, as for any outsider.
            outsider = ck.Consumer(
                {"bootstrap.servers": self.bootstrap, "group.id": self.namespace}
            )
            producer.send_offsets_to_transaction(
                [ck.TopicPartition(self.topic("source"), 0, offset, METADATA)],
                outsider.consumer_group_metadata(),
                PATIENCE_S,
            )
            outsider.close()

    def write(
        self,
        producer: ck.Producer,
        records: Sequence[tuple[bytes | None, bytes | None]],
        offset: int | None = None,
        *,
        abort: bool = False,
    ) -> None:
        """A whole transaction."""
        self.begin(producer, records, offset)
        if abort:
            producer.abort_transaction(PATIENCE_S)
        else:
            producer.commit_transaction(PATIENCE_S)

    async def starts(self, task: Task) -> tuple[Start, int]:
        """Restore; also how many changelog records were read for it."""
        starter = Starter(self.config, SystemClock())
        read: list[int] = []
        inner = starter._restorer.catch_up

        def counted(
            stores: Mapping[object, tuple[str, Store]],
            progress: Progress,
            cancelled: Callable[[], bool],
        ) -> None:
            inner(stores, progress, cancelled)  # type: ignore[arg-type]
            read.append(progress.records)

        starter._restorer.catch_up = counted  # type: ignore[method-assign,assignment]
        found = await asyncio.wait_for(starter.starts([task]), PATIENCE_S)
        starter.close()
        assert found is not None
        return found[task.id], read[-1]

    def fill_source(self, count: int) -> None:
        producer = ck.Producer({"bootstrap.servers": self.bootstrap})
        for i in range(count):
            producer.produce(self.topic("source"), b"%d" % i)
        producer.flush(PATIENCE_S)

    def trim(self, name: str, before: int) -> None:
        """Remove records as retention does."""
        request = [ck.TopicPartition(self.topic(name), 0, before)]
        for future in self.admin.delete_records(request).values():
            future.result(PATIENCE_S)

    def close(self) -> None:
        for task in self._tasks:
            task.close()


@pytest.fixture
def world(kafka: str, namespace: str, tmp_path: Path) -> Iterator[World]:
    made = World(kafka, namespace, tmp_path)
    yield made
    made.close()


def row(key: bytes, value: int | None) -> tuple[bytes, bytes | None]:
    raw = None if value is None else Sum().encode(value)
    return row_record_key(COUNTS.identity, key), raw


def position(at: int) -> tuple[bytes, bytes]:
    return POSITION_KEY, b"%d" % at


# -- where a partition goes on ----------------------------------------------------------------


async def test_a_partition_nobody_ever_read_starts_at_its_beginning(world: World) -> None:
    world.fill_source(3)
    task = world.task()
    start, read = await world.starts(task)
    assert (start.position, start.lanes, start.counts, read) == (0, Lanes(), Counts(), 0)
    assert (start.since, start.anew) == ({fingerprint(COUNTS.identity): 0}, {})
    assert world.rows(task) == {}


async def test_a_lost_disk_is_rebuilt_through_holes_and_aborted_transactions(world: World) -> None:
    producer = world.producer()
    world.write(producer, [row(b"a", 1), position(1)], 1)
    world.write(producer, [row(b"a", 99), row(b"ghost", 1), position(99)], abort=True)
    world.write(producer, [row(b"a", 2), row(b"gone", 5), position(2)], 2)
    world.write(producer, [row(b"gone", None), row(b"b", 7), position(3)], 3)
    world.write(producer, [row(b"b", 99), position(98)], abort=True)
    task = world.task()
    start, _ = await world.starts(task)
    assert (start.position, start.lanes, start.counts) == (3, LANES, TALLY)
    assert (start.since, start.anew) == ({fingerprint(COUNTS.identity): 3}, {})
    assert world.rows(task) == {b"a": b"2", b"b": b"7"}
    assert world.store_of(task).positions().source == 3


async def test_a_changelog_whose_beginning_was_removed_is_read_from_what_is_left(
    world: World,
) -> None:
    producer = world.producer()
    world.write(producer, [row(b"old", 1), position(1)], 1)
    world.write(producer, [row(b"new", 2), position(2)], 2)
    world.trim("source-changelog", 3)
    task = world.task()
    start, _ = await world.starts(task)
    assert start.position == 2
    assert world.rows(task) == {b"new": b"2"}


async def test_a_changelog_that_ends_in_an_aborted_transaction_only_is_empty(world: World) -> None:
    world.write(world.producer(), [row(b"a", 1), position(1)], abort=True)
    task = world.task()
    start, read = await world.starts(task)
    assert (start.position, read, world.rows(task)) == (0, 0, {})


async def test_foreign_records_in_the_changelog_change_nothing(world: World) -> None:
    producer = world.producer()
    world.write(
        producer,
        [
            (b"", b"empty key"),
            (b"no separator", b"x"),
            (b"\0", b"x"),
            (b"\xff\xfe\0k", b"x"),
            (row_record_key("some former meaning", b"a"), b"x"),
            (POSITION_KEY, b"not a number"),
            (POSITION_KEY, None),
            row(b"a", 4),
            position(6),
        ],
        6,
    )
    task = world.task()
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (6, {b"a": b"4"})


async def test_a_store_that_is_behind_reads_only_what_it_lacks(world: World) -> None:
    producer = world.producer()
    world.write(producer, [row(b"a", 1), position(1)], 1)
    task = world.task()
    await world.starts(task)
    world.write(producer, [row(b"b", 2), position(2)], 2)
    start, read = await world.starts(task)
    assert (start.position, read) == (2, 2)
    assert world.rows(task) == {b"a": b"1", b"b": b"2"}
    again, nothing = await world.starts(task)
    assert (again, nothing) == (start, 0)


async def test_a_store_ahead_of_its_changelog_is_rebuilt(world: World) -> None:
    world.write(world.producer(), [row(b"a", 1), position(1)], 1)
    task = world.task()
    world.store_of(task).write({COUNTS.identity: {b"made up": b"9"}}, Positions(1_000, 77))
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (1, {b"a": b"1"})


async def test_a_store_the_group_does_not_agree_with_is_rebuilt(world: World) -> None:
    producer = world.producer()
    world.write(producer, [row(b"a", 1), position(1)], 1)
    task = world.task()
    await world.starts(task)
    at = world.store_of(task).positions().changelog
    world.store_of(task).write({COUNTS.identity: {b"made up": b"9"}}, Positions(at, 55))
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (1, {b"a": b"1"})


async def test_state_is_the_truth_where_the_group_has_forgotten_or_moved_its_offset(
    world: World,
) -> None:
    world.fill_source(9)
    producer = world.producer()
    world.write(producer, [row(b"a", 5), position(5)])
    task = world.task()
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (5, {b"a": b"5"})
    world.write(producer, [(b"moved by hand", b"")], 2)
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (5, {b"a": b"5"})


async def test_records_that_retention_took_are_skipped_and_said_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fill_source(8)
    world.write(world.producer(), [row(b"a", 1), position(2)], 2)
    world.trim("source", 6)
    start, _ = await world.starts(world.task())
    assert start.position == 6
    assert "records 2 to 5 were removed" in caplog.text


# -- waiting for those who may still have a say -----------------------------------------------


class Waiting:
    """A call in a thread that is asked again and again whether it was cancelled."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.cancel = threading.Event()

    def cancelled(self) -> bool:
        self.asked.release()
        return self.cancel.is_set()

    async def went_round(self, times: int = 3) -> None:
        """Wait until the call has looked at the broker and come back, some times over."""
        for _ in range(times):
            assert await asyncio.to_thread(self.asked.acquire, timeout=PATIENCE_S)


@pytest.mark.parametrize("abort", [True, False])
async def test_committed_offsets_wait_for_a_pending_transaction(world: World, abort: bool) -> None:
    producer = world.producer()
    world.write(producer, [position(1)], 1)
    world.begin(producer, [position(2)], 2)
    waiting = Waiting()
    asking = asyncio.create_task(
        asyncio.to_thread(
            Restorer(world.config).start_points, [SOURCE], Progress(), waiting.cancelled
        )
    )
    await waiting.went_round()
    assert not asking.done()
    end = producer.abort_transaction if abort else producer.commit_transaction
    end(PATIENCE_S)
    points = await asyncio.wait_for(asking, PATIENCE_S)
    assert points[SOURCE].committed == (1 if abort else 2)
    assert points[SOURCE].metadata == METADATA


@pytest.mark.parametrize("abort", [True, False])
async def test_the_changelog_waits_for_a_pending_transaction(world: World, abort: bool) -> None:
    producer = world.producer()
    world.write(producer, [row(b"a", 1), position(1)], 1)
    world.begin(producer, [row(b"a", 2), position(2)])
    task, waiting = world.task(), Waiting()
    reading = asyncio.create_task(
        asyncio.to_thread(
            Restorer(world.config).catch_up,
            {SOURCE: (world.topic("source-changelog"), world.store_of(task))},
            Progress(),
            waiting.cancelled,
        )
    )
    await waiting.went_round()
    assert not reading.done()
    end = producer.abort_transaction if abort else producer.commit_transaction
    end(PATIENCE_S)
    await asyncio.wait_for(reading, PATIENCE_S)
    assert world.rows(task) == {b"a": b"1" if abort else b"2"}


async def test_a_restore_that_waits_can_be_cancelled(world: World) -> None:
    producer = world.producer()
    world.begin(producer, [position(2)], 2)
    waiting = Waiting()
    asking = asyncio.create_task(
        asyncio.to_thread(
            Restorer(world.config).start_points, [SOURCE], Progress(), waiting.cancelled
        )
    )
    await waiting.went_round(1)
    waiting.cancel.set()
    with pytest.raises(RestoreCancelledError):
        await asyncio.wait_for(asking, PATIENCE_S)
    producer.abort_transaction(PATIENCE_S)


async def test_a_cancelled_start_is_no_start(world: World) -> None:
    producer = world.producer()
    world.begin(producer, [position(2)], 2)
    starter = Starter(world.config, SystemClock())
    inner, began = starter._restorer.start_points, threading.Event()

    def started(
        tasks: Iterable[TaskId], progress: Progress, cancelled: Callable[[], bool]
    ) -> Mapping[TaskId, StartPoint]:
        began.set()
        return inner(tasks, progress, cancelled)

    starter._restorer.start_points = started  # type: ignore[method-assign,assignment]
    task = world.task()
    starting = asyncio.create_task(starter.starts([task]))
    assert await asyncio.to_thread(began.wait, PATIENCE_S)
    starter.cancel()
    assert await asyncio.wait_for(starting, PATIENCE_S) is None
    await starter.idle(asyncio.get_running_loop().time() + PATIENCE_S)
    starter.close()
    producer.abort_transaction(PATIENCE_S)


# -- fencing ----------------------------------------------------------------------------------


@pytest.fixture
async def member(world: World) -> AsyncIterator[Membership]:
    """A real member of the group, as Faust's consumer would be one."""
    consumer = aiokafka.AIOKafkaConsumer(
        world.topic("source"),
        bootstrap_servers=world.bootstrap,
        group_id=world.namespace,
        enable_auto_commit=False,
    )
    await consumer.start()
    coordinator = consumer._coordinator
    yield Membership(world.namespace, coordinator.generation, coordinator.member_id)
    await consumer.stop()


def an_epoch(membership: Membership | None) -> Epoch:
    commit = TaskCommit(2, LANES, TALLY, "source-changelog", {COUNTS: {b"a": 2, b"gone": None}})
    return Epoch(1, membership, {SOURCE: commit}, [], [], 2)


@pytest.fixture
def writer(world: World) -> Iterator[TransactionalWriter]:
    made = TransactionalWriter(world.config, lambda _step: None, SystemClock())
    yield made
    made.close()


async def test_an_epoch_can_be_read_back_from_nothing(
    world: World, writer: TransactionalWriter, member: Membership
) -> None:
    written = await asyncio.to_thread(writer.commit, an_epoch(member), NEVER)
    assert written.rows == {SOURCE: {COUNTS.identity: {b"a": b"2", b"gone": None}}}
    task = world.task()
    start, read = await world.starts(task)
    assert (start.position, start.lanes, start.counts, read) == (2, LANES, TALLY, 3)
    assert world.rows(task) == {b"a": b"2"}
    assert written.changelog == {SOURCE: 3}


async def test_a_range_that_an_epoch_dropped_is_gone_from_every_restore(
    world: World, writer: TransactionalWriter, member: Membership
) -> None:
    owner, standby = world.task(), world.task("behind")

    async def commit(number: int, effects: Effects) -> None:
        owner.apply(effects)
        owner.position = number
        commit = owner.take()
        epoch = Epoch(number, member, {SOURCE: commit}, [], [], 1)
        written = await asyncio.to_thread(writer.commit, epoch, NEVER)
        at = Positions(written.changelog[SOURCE], number)
        world.store_of(owner).write(written.rows[SOURCE], at, commit.dropped)
        for layers in owner.layers.values():
            layers.settle(written.rows[SOURCE][layers.spec.identity])

    await commit(1, Effects(updates={"counts": {b"%03d" % n: n + 1 for n in range(300)}}))
    await world.starts(standby)  # it has all rows, and hears of the drop alone
    dropped, again = (b"100", b"200"), {b"150": 7, b"1500": 8}
    await commit(2, Effects(drops={"counts": [dropped]}))
    await commit(3, Effects(updates={"counts": again}))
    kept = {b"%03d" % n: b"%d" % (n + 1) for n in range(300) if not 100 <= n < 200}
    expected = kept | {b"150": b"7", b"1500": b"8"}
    for task in (owner, standby, world.task("lost-disk")):
        start, _ = await world.starts(task)
        assert start.position == 3
        assert world.rows(task) == expected


async def rejected(world: World, writer: TransactionalWriter, epoch: Epoch) -> CommitFailedError:
    """The error of a commit that must fail and must leave nothing behind."""
    with pytest.raises(CommitFailedError) as caught:
        await asyncio.to_thread(writer.commit, epoch, NEVER)
    task = world.task()
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (0, {})
    return caught.value


async def test_a_member_the_group_does_not_know_commits_nothing(
    world: World, writer: TransactionalWriter, member: Membership
) -> None:
    made_up = Membership(member.group, member.generation, "nobody")
    error = await rejected(world, writer, an_epoch(made_up))
    assert (error.membership_lost, error.producer_dead) == (True, False)


@pytest.mark.parametrize("step", [-1, 1])
async def test_another_generation_commits_nothing(
    world: World, writer: TransactionalWriter, member: Membership, step: int
) -> None:
    stale = Membership(member.group, member.generation + step, member.member_id)
    error = await rejected(world, writer, an_epoch(stale))
    assert (error.membership_lost, error.producer_dead) == (True, False)


async def test_a_rejected_writer_commits_again_once_it_is_a_member(
    world: World, writer: TransactionalWriter, member: Membership
) -> None:
    made_up = Membership(member.group, member.generation, "nobody")
    await rejected(world, writer, an_epoch(made_up))
    await asyncio.to_thread(writer.commit, an_epoch(member), NEVER)


async def test_an_epoch_without_a_membership_is_not_even_begun(writer: TransactionalWriter) -> None:
    with pytest.raises(CommitFailedError, match="membership") as caught:
        writer.commit(an_epoch(None), NEVER)
    assert caught.value.membership_lost


async def test_a_writer_that_takes_over_fences_its_former_self(
    world: World, writer: TransactionalWriter, member: Membership
):
    await asyncio.to_thread(writer.open)
    heir = TransactionalWriter(world.config, lambda _step: None, SystemClock())
    await asyncio.to_thread(heir.open)
    error = await rejected(world, writer, an_epoch(member))
    assert (error.membership_lost, error.producer_dead) == (False, True)
    await asyncio.to_thread(heir.commit, an_epoch(member), NEVER)
    heir.close()


async def test_what_a_dead_writer_left_open_ends_when_its_successor_registers(
    world: World, writer: TransactionalWriter
) -> None:
    died = ck.Producer(
        {
            "bootstrap.servers": world.bootstrap,
            "transactional.id": world.config.transactional_id,
            "transaction.timeout.ms": 60_000,
        }
    )
    died.init_transactions(PATIENCE_S)
    world.begin(died, [row(b"ghost", 1), position(7)], 7)
    await asyncio.to_thread(writer.open)
    task = world.task()
    start, _ = await world.starts(task)
    assert (start.position, world.rows(task)) == (0, {})
    died.purge()
