"""Produces the records of an epoch: outputs, packed partials, changed rows, positions.

Blocking; runs in the epochs thread. What makes them one commit is in
:mod:`app.engine.transaction`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import confluent_kafka as ck

from app.engine.batch import Headers
from app.engine.changelog import POSITION_KEY, row_record_key, since_key
from app.engine.chunks import CHUNK_BYTES_MAX, CHUNK_MARKS_MAX, Chunk, encode_chunk
from app.engine.clients import OUTAGES
from app.engine.epoch import Epoch, Rekeyed, TaskCommit, TaskId
from app.engine.partitioner import partition_for
from app.engine.spec import EngineConfig

logger = logging.getLogger(__name__)

Rows = Mapping[str, Mapping[bytes, bytes | None]]
"""Column family -> key -> encoded row, None for a deleted one."""
OnDelivery = Callable[[ck.KafkaError | None, ck.Message], None]


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
        **OUTAGES,
        "statistics.interval.ms": 0,
    }


class EpochProducer:
    """Produces the records of an epoch, whatever the guarantee."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._producer: ck.Producer | None = None
        self._on_delivery: OnDelivery | None = None

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
        for topic, partition, value in chunks(epoch, self._config.partitions):
            self._produce(physical(topic), None, value, partition, ())
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
        for identity, since in commit.anew.items():
            self._produce(topic, since_key(identity), b"%d" % since, task.partition, ())
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
        on_delivery: OnDelivery | None = None,
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


def chunks(epoch: Epoch, partitions: Mapping[str, int]) -> Iterator[tuple[str, int, bytes]]:
    """All chunks of an epoch, as ``(topic, destination partition, value)``.

    ``partitions``: number of partitions by topic.
    """
    for rekeyed in epoch.rekeyed:
        topic, positions = rekeyed.repartition.topic, epoch.positions(rekeyed.source)
        for partition, value in pack(rekeyed, positions, partitions[topic]):
            yield topic, partition, value


def pack(rekeyed: Rekeyed, positions: Mapping[int, int], count: int) -> Iterator[tuple[int, bytes]]:
    """Chunks of an epoch's partials, as ``(destination partition of count, value)``.

    ``positions`` are those committed with them. A broadcast gives every destination at least
    one chunk, so that windows of keys that fell silent learn how far time has come.
    """
    repartition = rekeyed.repartition
    held: list[list[bytes]] = [[] for _ in range(count)]
    sizes = [0] * count
    told = list(rekeyed.marks.items())
    marks, *more = [
        dict(told[first : first + CHUNK_MARKS_MAX])
        for first in range(0, max(1, len(told)), CHUNK_MARKS_MAX)
    ]
    account = (dict(positions), rekeyed.counted) if rekeyed.counted else ()
    for key, value in rekeyed.values.items():
        partition = partition_for(repartition.route(key), count)
        raw = repartition.encode(key, value)
        if sizes[partition] + len(raw) > CHUNK_BYTES_MAX and held[partition]:
            # Marks come last: who has them has every partial that they speak of.
            yield partition, encode_chunk(Chunk({}, held[partition], *account))
            held[partition], sizes[partition], account = [], 0, ()
        held[partition].append(raw)
        sizes[partition] += len(raw)
    for partition in range(count):
        if held[partition] or rekeyed.broadcast:
            yield partition, encode_chunk(Chunk(marks, held[partition], *account))
            account = ()
            for part in more:
                yield partition, encode_chunk(Chunk(part, []))
