"""Workers outlive what happens to the broker and to the way there, and count exactly."""

from __future__ import annotations

import contextlib
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.cimpl import NewTopic

from app.engine.offsets import GroupOffsets
from tests.faults.drills_broker import broker_kill_drill, broker_pause_drill, connection_drill
from tests.faults.own_broker import OwnBroker, own_broker
from tests.system.harness import wait_for
from tests.system.topics import make_topics

pytestmark = [pytest.mark.broker, pytest.mark.faults]

TOPIC, GROUP = "orphaned", "orphaned-readers"
PATIENCE_S = 30.0


def test_a_broker_killed_within_a_commit_loses_and_doubles_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    assert len(broker_kill_drill(drill_broker, tmp_path, seed=1, shares=(0.3,)).faults) == 1


def test_a_broker_paused_beyond_the_transaction_timeout_loses_and_doubles_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    broker_pause_drill(drill_broker, tmp_path, seed=1)


def test_connections_slow_cut_and_refused_lose_and_double_nothing(
    drill_broker: OwnBroker, tmp_path: Path
) -> None:
    assert len(connection_drill(drill_broker, tmp_path, seed=1).faults) == 5


def test_a_transaction_aborted_while_a_killed_broker_still_counts_as_alive_is_ended(
    tmp_path: Path,
) -> None:
    with own_broker(tmp_path) as broker:
        make_topics(broker.bootstrap, NewTopic(TOPIC, 1, 1))
        leave_open(broker.bootstrap)
        broker.kill()
        # It leads its partitions as before, then none, and then leads them again: the markers
        # of what is aborted in the first of these times have to survive the second.
        broker.extra += (
            "broker.session.timeout.ms=8000\n"
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=100\n"
        )
        broker.start()
        assert committed(broker.bootstrap) < 0
        assert read_to_the_end(broker.bootstrap) == 0


def leave_open(bootstrap: str) -> None:
    """A transaction with a record and an offset that nobody will end."""
    producer = ck.Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": "x", "transaction.timeout.ms": 1_000}
    )
    reader = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(TOPIC, b"lost", partition=0)
    offsets = [ck.TopicPartition(TOPIC, 0, 1)]
    producer.send_offsets_to_transaction(offsets, reader.consumer_group_metadata(), PATIENCE_S)
    assert producer.flush(PATIENCE_S) == 0
    reader.close()


def committed(bootstrap: str) -> int:
    """The group's offset once nothing holds it, negative without one."""
    group = GroupOffsets(bootstrap, GROUP, "test")

    def stable() -> int | None:
        with contextlib.suppress(ck.KafkaException):
            return group.committed([(TOPIC, 0)], 1.0)[TOPIC, 0].offset
        return None

    try:
        return wait_for("the committed offset is stable", stable, PATIENCE_S)
    finally:
        group.close()


def read_to_the_end(bootstrap: str) -> int:
    """How many records a reader of committed data sees until it has passed the written one."""
    reader = ck.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": GROUP,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    reader.assign([ck.TopicPartition(TOPIC, 0, 0)])
    seen = 0

    def passed() -> int | None:
        nonlocal seen
        message = reader.poll(1.0)
        if message is None:
            return None
        if message.error() is None:
            seen += 1
        return seen if (message.offset() or 0) > 1 else None

    try:
        return wait_for("the record is passed", passed, PATIENCE_S)
    finally:
        reader.close()
