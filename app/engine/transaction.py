"""Writes an epoch to Kafka: one transaction, fenced by the frozen group metadata.

Blocking; runs in one thread of its own. librdkafka keeps the transaction protocol, this
module keeps its order: rows and outputs, position records, offsets, commit, and only then
the local stores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import confluent_kafka as ck
from aiokafka.errors import KafkaError

from app.engine.batch import Headers
from app.engine.changelog import POSITION_KEY, row_record_key
from app.engine.chunks import CHUNK_BYTES_MAX, Chunk, encode_chunk
from app.engine.epoch import Epoch, Partials, TaskCommit, TaskId
from app.engine.partitioner import partition_for
from app.engine.spec import EngineConfig

logger = logging.getLogger(__name__)

REGISTER_S = 20.0

Rows = Mapping[str, Mapping[bytes, bytes | None]]
_OnDelivery = Callable[[ck.KafkaError | None, ck.Message], None]
Probe = Callable[[str], None]
"""Told the name of each step of a commit; fault drills stop or kill the process there."""

_MEMBERSHIP_LOST = frozenset(
    {
        ck.KafkaError.ILLEGAL_GENERATION,
        ck.KafkaError.UNKNOWN_MEMBER_ID,
        ck.KafkaError.FENCED_INSTANCE_ID,
        ck.KafkaError.REBALANCE_IN_PROGRESS,
    }
)


class CommitFailedError(Exception):
    """The epoch did not commit, or its fate is not known; state must be read anew.

    ``membership_lost``: the group does not know this member in this generation any more,
    so a rebalance is on its way. ``producer_dead``: a new producer is needed.
    """

    def __init__(self, reason: str, *, membership_lost: bool, producer_dead: bool) -> None:
        super().__init__(reason)
        self.membership_lost = membership_lost
        self.producer_dead = producer_dead


@dataclass(frozen=True, slots=True)
class Written:
    """What a committed epoch put into the changelogs, for the local stores.

    ``rows``: task -> column family -> key -> value; ``changelog``: task -> next offset.
    """

    rows: Mapping[TaskId, Rows]
    changelog: Mapping[TaskId, int]


def producer_config(config: EngineConfig) -> dict[str, str | int | float | bool]:
    """Settings of librdkafka shared by both guarantees."""
    return {
        "bootstrap.servers": config.bootstrap,
        "client.id": f"{config.worker}-epochs",
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        # A commit flushes at once, so lingering only makes batches larger while producing.
        "linger.ms": 20,
        # The broker ends a transaction after it has answered; what begins the next one is
        # told to try again: one commit in ten, by 100 ms and more with the default.
        "retry.backoff.ms": 5,
        "retry.backoff.max.ms": 50,
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 262_144,
        "message.max.bytes": 8 << 20,
        # Once every broker is down, librdkafka would forget all it knows of the cluster; a
        # send_offsets_to_transaction under way then waits for ever, whatever its timeout.
        "metadata.recovery.strategy": "none",
        "statistics.interval.ms": 0,
    }


class EpochProducer:
    """Produces the records of an epoch, whatever the guarantee."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._producer: ck.Producer | None = None
        self._on_delivery: _OnDelivery | None = None

    def _new(self) -> ck.Producer:
        return ck.Producer(producer_config(self._config))

    @property
    def producer(self) -> ck.Producer:
        """The live producer, made on first use."""
        if self._producer is None:
            self._producer = self._new()
        return self._producer

    def close(self) -> None:
        """Forget the producer; what it has not sent is dropped."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            try:
                producer.flush(1)
            except (ck.KafkaException, SystemError) as exc:
                # A fenced producer says so at every call; there is nothing left to send. The
                # client raises inside flush and runs delivery callbacks on top: SystemError.
                logger.info("the producer was given up: %s", exc)

    def produce_all(self, epoch: Epoch) -> tuple[dict[TaskId, Rows], dict[TaskId, int]]:
        """Hand everything to the producer; offsets appear in the second mapping on delivery."""
        physical = self._config.physical
        for output in epoch.outputs:
            self._produce(
                physical(output.topic), output.key, output.value, output.partition, output.headers
            )
        for partials in epoch.partials:
            topic = physical(partials.repartition.topic)
            for partition, value in pack(partials, self._config.partitions):
                self._produce(topic, None, value, partition, ())
        rows: dict[TaskId, Rows] = {}
        delivered: dict[TaskId, int] = {}
        for task, commit in epoch.tasks.items():
            if commit.changelog is not None:
                rows[task] = self._produce_changes(task, commit, delivered)
        return rows, delivered

    def _produce_changes(
        self, task: TaskId, commit: TaskCommit, delivered: dict[TaskId, int]
    ) -> Rows:
        topic = self._config.physical(commit.changelog or "")
        rows: dict[str, dict[bytes, bytes | None]] = {}
        for table, changes in commit.changes.items():
            encode, identity = table.aggregate.encode, table.identity
            raw = {k: None if s is None else encode(s) for k, s in changes.items()}
            for key, value in raw.items():
                self._produce(topic, row_record_key(identity, key), value, task.partition, ())
            rows[identity] = raw

        def on_delivery(error: ck.KafkaError | None, message: ck.Message) -> None:
            if self._on_delivery is not None:
                self._on_delivery(error, message)
            offset = message.offset()
            if error is None and offset is not None:
                delivered[task] = offset + 1

        self._produce(topic, POSITION_KEY, b"%d" % commit.position, task.partition, (), on_delivery)
        return rows

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        headers: Headers,
        on_delivery: _OnDelivery | None = None,
    ) -> None:
        while True:
            try:
                self.producer.produce(
                    topic,
                    value,
                    key,
                    -1 if partition is None else partition,
                    on_delivery or self._on_delivery,
                    headers=list(headers),
                )
            except BufferError:
                self.producer.poll(0.05)
            else:
                return


def pack(partials: Partials, partitions: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
    """Chunks of an epoch's partials, as ``(destination partition, value)``.

    A broadcast gives every destination at least one chunk, so that windows of keys that
    fell silent learn how far time has come.
    """
    repartition = partials.repartition
    count = partitions[repartition.topic]
    held: list[list[bytes]] = [[] for _ in range(count)]
    sizes = [0] * count
    sent = [False] * count
    marks = dict(partials.marks)
    for key, value in partials.values.items():
        partition = partition_for(repartition.route(key), count)
        raw = repartition.encode(key, value)
        if sizes[partition] + len(raw) > CHUNK_BYTES_MAX and held[partition]:
            yield partition, encode_chunk(Chunk(partials.task.partition, marks, held[partition]))
            held[partition], sizes[partition], sent[partition] = [], 0, True
        held[partition].append(raw)
        sizes[partition] += len(raw)
    for partition in range(count):
        if held[partition] or (partials.broadcast and not sent[partition]):
            yield partition, encode_chunk(Chunk(partials.task.partition, marks, held[partition]))


class TransactionalWriter(EpochProducer):
    """Exactly once: an epoch is one transaction."""

    def __init__(self, config: EngineConfig, probe: Probe) -> None:
        super().__init__(config)
        self._probe = probe

    def _new(self) -> ck.Producer:
        config = producer_config(self._config)
        config["transactional.id"] = self._config.transactional_id
        config["transaction.timeout.ms"] = self._config.transaction_timeout_ms
        config["delivery.timeout.ms"] = self._config.transaction_timeout_ms
        return ck.Producer(config)

    def open(self) -> None:
        """Register with the coordinator: fences, and ends, what a former self left open.

        Raises :class:`CommitFailedError` while no coordinator answers.
        """
        if self._producer is None:
            try:
                self.producer.init_transactions(REGISTER_S)
            except ck.KafkaException as exc:
                self.close()
                raise CommitFailedError(
                    f"the transaction coordinator did not answer: {exc.args[0].str()}",
                    membership_lost=False,
                    producer_dead=True,
                ) from exc

    def commit(self, epoch: Epoch) -> Written:
        """Write one epoch, or raise :class:`CommitFailedError`."""
        if epoch.membership is None:
            raise CommitFailedError("no membership", membership_lost=True, producer_dead=False)
        self.open()
        producer = self.producer
        physical = self._config.physical
        offsets = [
            ck.TopicPartition(
                physical(task.topic), task.partition, commit.position, commit.metadata()
            )
            for task, commit in epoch.tasks.items()
        ]
        deadline = time.monotonic() + self._config.transaction_timeout_ms / 1000
        try:
            producer.begin_transaction()
            self._probe("begun")
            rows, delivered = self.produce_all(epoch)
            self._probe("produced")
            metadata = epoch.membership.metadata()
            self._retrying(
                lambda left: producer.send_offsets_to_transaction(offsets, metadata, left), deadline
            )
            self._probe("offsets_sent")
            self._retrying(producer.commit_transaction, deadline)
        except ck.KafkaException as exc:
            raise self._failed(exc, producer) from exc
        except Exception as exc:
            self.close()  # the transaction is open: only its successor can end it
            raise CommitFailedError(
                f"an epoch could not be written: {exc!r}", membership_lost=False, producer_dead=True
            ) from exc
        self._probe("committed")
        return Written(rows, delivered)

    @staticmethod
    def _retrying(call: Callable[[float], None], deadline: float) -> None:
        while True:
            try:
                call(max(0.1, deadline - time.monotonic()))
            except ck.KafkaException as exc:
                if not exc.args[0].retriable() or time.monotonic() >= deadline:
                    raise
                # librdkafka resumes the same call where it stood; it waits inside.
                continue
            return

    def _failed(self, exc: ck.KafkaException, producer: ck.Producer) -> CommitFailedError:
        error: ck.KafkaError = exc.args[0]
        dead = error.fatal() or not error.txn_requires_abort()
        if not dead:
            try:
                producer.abort_transaction(self._config.transaction_timeout_ms / 1000)
            except ck.KafkaException as abort_exc:
                logger.warning("could not abort the transaction: %s", abort_exc)
                dead = True
        if dead:
            self.close()
        return CommitFailedError(
            str(error),
            membership_lost=error.code() in _MEMBERSHIP_LOST,
            producer_dead=dead,
        )


class AtLeastOnceWriter(EpochProducer):
    """At least once, for comparison: everything is delivered, then offsets are committed."""

    def __init__(
        self, config: EngineConfig, commit_offsets: Callable[[Mapping[TaskId, TaskCommit]], None]
    ) -> None:
        super().__init__(config)
        self._commit_offsets = commit_offsets
        self._undelivered: ck.KafkaError | None = None
        # A transaction that lost a record does not commit; here every report has to be read.
        self._on_delivery = self._note

    def _note(self, error: ck.KafkaError | None, _message: ck.Message) -> None:
        if error is not None:
            self._undelivered = error

    def open(self) -> None:
        """Nothing to register."""

    def commit(self, epoch: Epoch) -> Written:
        """Write one epoch, or raise :class:`CommitFailedError`."""
        self._undelivered = None
        rows, delivered = self.produce_all(epoch)
        left = self.producer.flush(self._config.transaction_timeout_ms / 1000)
        if left or self._undelivered is not None:
            self.close()
            raise CommitFailedError(
                f"records were not delivered: {self._undelivered or 'no answer in time'}",
                membership_lost=False,
                producer_dead=True,
            )
        try:
            self._commit_offsets(epoch.tasks)
        except (KafkaError, TimeoutError) as exc:
            raise CommitFailedError(
                f"offsets were not committed: {exc!r}", membership_lost=True, producer_dead=False
            ) from exc
        return Written(rows, delivered)


Writer = TransactionalWriter | AtLeastOnceWriter
