"""A broker of the run's own, in a temporary folder, and the questions put to it."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from app.broker.embedded import ensure_broker, stop_broker

TIMEOUT_S = 30.0

Offsets = dict[int, int]


@dataclass(frozen=True, slots=True)
class BenchBroker:
    """Where it answers, its process, and a folder that goes when the run ends."""

    bootstrap: str
    pid: int
    folder: Path
    admin: AdminClient

    def new_topic(self, name: str, partitions: int, **config: str) -> str:
        """Create a topic, dots of ``config`` written as underscores; its name is unique."""
        topic = f"{name}-{uuid.uuid4().hex[:6]}"
        options = {key.replace("_", "."): value for key, value in config.items()}
        request = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=options)
        self.admin.create_topics([request], operation_timeout=TIMEOUT_S)[topic].result()
        return topic

    def ends(self, topic: str, partitions: int) -> Offsets:
        """Next offset of each partition, committed or not."""
        request = {ck.TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}  # type: ignore[no-untyped-call]
        futures = self.admin.list_offsets(
            request, isolation_level=ck.IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT_S
        )
        return {tp.partition: f.result().offset for tp, f in futures.items()}

    def committed(self, group: str, topics: tuple[str, ...], partitions: int) -> list[Offsets]:
        """Committed offset of each partition of each topic; 0 where there is none."""
        wanted = [ck.TopicPartition(t, p) for t in topics for p in range(partitions)]
        request = ck.ConsumerGroupTopicPartitions(group, wanted)
        found = self.admin.list_consumer_group_offsets([request], request_timeout=TIMEOUT_S)
        offsets: dict[str, Offsets] = {topic: {} for topic in topics}
        for tp in found[group].result().topic_partitions:
            offsets[tp.topic][tp.partition] = max(0, tp.offset)
        return [offsets[topic] for topic in topics]


@contextlib.contextmanager
def bench_broker() -> Iterator[BenchBroker]:
    """Start a broker for the run, and remove it with everything in it."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        home = folder / "home"
        address = ensure_broker(home)
        try:
            admin = AdminClient({"bootstrap.servers": address.bootstrap, "log_level": 2})
            yield BenchBroker(address.bootstrap, address.pid, folder, admin)
        finally:
            stop_broker(home)


def reached(offsets: Offsets, ends: Offsets, *, slack: int = 0) -> bool:
    """Whether every partition has come to its end, but for ``slack`` offsets."""
    return all(offsets[partition] >= end - slack for partition, end in ends.items())
