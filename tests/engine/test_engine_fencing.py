"""Fencing on a real broker: who is not the owner any more commits nothing, one reason each.

An unknown member, a generation one off, and a writer with a former self are in
``test_engine_restore``; here the memberships are those of consumers that really came,
rejoined, and were forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiokafka
import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from app.engine.clock import SystemClock
from app.engine.membership import Membership
from app.engine.starts import Start, Starter
from app.engine.transaction import TransactionalWriter
from tests.engine.rig import PATIENCE_S, engine_config
from tests.engine.test_engine_restore import NEVER, World, an_epoch, position, rejected, row

pytestmark = pytest.mark.broker


@pytest.fixture
def world(kafka: str, namespace: str, tmp_path: Path) -> Iterator[World]:
    made = World(kafka, namespace, tmp_path)
    yield made
    made.close()


@pytest.fixture
def writer(world: World) -> Iterator[TransactionalWriter]:
    made = TransactionalWriter(world.config, lambda _step: None, SystemClock())
    yield made
    made.close()


@dataclass
class Joined:
    """A consumer in the group, as Faust's is one."""

    group: str
    consumer: aiokafka.AIOKafkaConsumer

    def membership(self) -> Membership:
        """As it is now; raises ValueError where there is none."""
        coordinator = self.consumer._coordinator
        instance = self.consumer._group_instance_id
        return Membership(self.group, coordinator.generation, coordinator.member_id, instance)

    async def rejoined(self, former: Membership) -> Membership:
        """Wait for another generation than the former."""
        async with asyncio.timeout(PATIENCE_S):
            while self.consumer._coordinator.generation in (former.generation, -1):
                await self.consumer.getmany(timeout_ms=50)
        return self.membership()


@asynccontextmanager
async def joined(world: World, instance: str | None = None) -> AsyncIterator[Joined]:
    consumer = aiokafka.AIOKafkaConsumer(
        world.topic("source"),
        bootstrap_servers=world.bootstrap,
        group_id=world.namespace,
        group_instance_id=instance,
        enable_auto_commit=False,
        heartbeat_interval_ms=100,
        session_timeout_ms=5_000,
    )
    await consumer.start()
    try:
        yield Joined(world.namespace, consumer)
    finally:
        await consumer.stop()


def committed(world: World) -> int:
    """The group's offset of the source."""
    outsider = ck.Consumer({"bootstrap.servers": world.bootstrap, "group.id": world.namespace})
    [found] = outsider.committed([ck.TopicPartition(world.topic("source"), 0)], PATIENCE_S)
    outsider.close()
    return int(found.offset)


# -- four ways to be nobody -------------------------------------------------------------------


async def test_a_worker_that_rejoined_commits_nothing_of_its_old_epoch(
    world: World, writer: TransactionalWriter
) -> None:
    async with joined(world) as worker:
        old = worker.membership()
        async with joined(world):
            new = await worker.rejoined(old)
            assert new.member_id == old.member_id
            error = await rejected(world, writer, an_epoch(old))
            assert (error.membership_lost, error.producer_dead) == (True, False)
            await asyncio.to_thread(writer.commit, an_epoch(new), NEVER)


async def test_a_worker_whose_partitions_moved_commits_nothing(
    world: World, writer: TransactionalWriter
) -> None:
    async with joined(world) as gone:
        former = gone.membership()
    async with joined(world):
        error = await rejected(world, writer, an_epoch(former))
    assert error.membership_lost


async def test_a_group_that_everybody_left_takes_no_epoch_of_a_former_member(
    world: World, writer: TransactionalWriter
) -> None:
    async with joined(world) as gone:
        former = gone.membership()
    error = await rejected(world, writer, an_epoch(former))
    assert error.membership_lost


async def test_a_reset_generation_is_no_membership_though_the_broker_would_take_it(
    world: World, writer: TransactionalWriter
) -> None:
    async with joined(world) as worker:
        frozen = worker.membership()
        async with joined(world):
            await worker.rejoined(frozen)
            worker.consumer._coordinator.reset_generation()
            with pytest.raises(ValueError, match="not a membership"):
                worker.membership()
            # What was frozen at assignment does not follow the client's reset.
            error = await rejected(world, writer, an_epoch(frozen))
            assert error.membership_lost
    # The reason for all this: without a generation the broker asks no further.
    nobody = replace(frozen)
    object.__setattr__(nobody, "generation", -1)
    object.__setattr__(nobody, "member_id", "")
    await asyncio.to_thread(writer.commit, an_epoch(nobody), NEVER)
    assert committed(world) == 2


async def test_a_static_member_that_came_back_fences_its_former_self(
    world: World, writer: TransactionalWriter
) -> None:
    async with joined(world, "one") as worker:
        former = worker.membership()
    async with joined(world, "one") as worker:
        back = worker.membership()
        assert (back.generation, back.instance) == (former.generation, "one")
        error = await rejected(world, writer, an_epoch(former))
        assert (error.membership_lost, error.producer_dead) == (True, False)
        assert "instance" in str(error)
        await asyncio.to_thread(writer.commit, an_epoch(back), NEVER)


@pytest.mark.parametrize(("generation", "member"), [(-1, "m"), (3, ""), (-1, "")])
def test_a_membership_that_fences_nothing_cannot_be_made(generation: int, member: str) -> None:
    with pytest.raises(ValueError, match="not a membership"):
        Membership("group", generation, member)


# -- what the dead leave open -----------------------------------------------------------------


class Died(BaseException):
    """The process is gone: nothing is cleaned up."""


def die(at: str, step: str) -> None:
    if step == at:
        raise Died


def scan_ms(bootstrap: str) -> int:
    """How often the broker looks for transactions that are over their time."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    broker = ConfigResource(ResourceType.BROKER, str(next(iter(admin.list_topics().brokers))))
    found = admin.describe_configs([broker])[broker].result(PATIENCE_S)
    value = found["transaction.abort.timed.out.transaction.cleanup.interval.ms"].value
    return int(value or 0)


def is_open(world: World) -> bool:
    """Whether a transaction holds committed readers of the changelog back."""
    changelog = ck.TopicPartition(world.topic("source-changelog"), 0)
    ends = [
        world.admin.list_offsets({changelog: OffsetSpec.latest()}, isolation_level=isolation)[
            changelog
        ]
        for isolation in (ck.IsolationLevel.READ_COMMITTED, ck.IsolationLevel.READ_UNCOMMITTED)
    ]
    committed, everything = (end.result(PATIENCE_S).offset for end in ends)
    return bool(committed < everything)


@pytest.mark.parametrize("step", ["produced", "offsets_sent"])
async def test_a_restore_waits_for_a_dead_owners_transaction_until_the_broker_ends_it(
    world: World, step: str
) -> None:
    world.write(world.producer(), [row(b"a", 1), position(1)], 1)
    # The broker ends it 4 to 6 s after it began: time enough to see it open on a slow machine.
    config = replace(
        world.config, session_timeout_ms=7_000, transactional_id=f"{world.namespace}-dead"
    )
    dead = TransactionalWriter(config, lambda at: die(step, at), SystemClock())
    async with joined(world) as worker:
        with pytest.raises(Died):
            await asyncio.to_thread(dead.commit, an_epoch(worker.membership()), NEVER)
    dead.producer.flush(PATIENCE_S)
    assert is_open(world)
    starter, task = Starter(world.config, SystemClock()), world.task()
    starting = asyncio.create_task(starter.starts([task]))
    async with asyncio.timeout(PATIENCE_S):
        open_while_waiting = 0
        while not starting.done():
            # Asked first: what is found open afterwards was open when the restore waited.
            waited = not starting.done()
            open_while_waiting += await asyncio.to_thread(is_open, world) and waited
            await asyncio.sleep(0)
    assert open_while_waiting
    assert not is_open(world)
    start = (await starting or {})[task.id]
    assert isinstance(start, Start)
    assert (start.position, world.rows(task)) == (1, {b"a": b"1"})
    starter.close()


def test_a_dead_owners_transaction_is_over_when_its_partitions_move(
    kafka: str, tmp_path: Path
) -> None:
    config = engine_config(tmp_path)
    assert config.transaction_timeout_ms + scan_ms(kafka) <= config.session_timeout_ms
