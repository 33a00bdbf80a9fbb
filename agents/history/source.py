"""The archiver's questions to the broker."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

REQUEST_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Topic:
    """``topic_id``: the first 8 hex digits of the id the topic got when it was made."""

    topic_id: str
    partitions: int


def described(bootstrap: str, topics: Collection[str]) -> dict[str, Topic]:
    """Each topic by its name. Raises :class:`confluent_kafka.KafkaException`."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    futures = admin.describe_topics(ck.TopicCollection(sorted(topics)), request_timeout=REQUEST_S)
    found = {}
    for name, future in futures.items():
        description = future.result(REQUEST_S)
        high = description.topic_id.get_most_significant_bits() & ((1 << 64) - 1)
        found[name] = Topic(f"{high >> 32:08x}", len(description.partitions))
    return found


def log_start(consumer: ck.Consumer, partition: ck.TopicPartition) -> int:
    """First offset the log still has. Raises :class:`confluent_kafka.KafkaException`."""
    low, _ = consumer.get_watermark_offsets(partition, REQUEST_S)
    return int(low)
