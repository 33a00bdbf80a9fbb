"""Topics of a test's own, which every client can use once they are made."""

from __future__ import annotations

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from confluent_kafka.cimpl import NewTopic

from tests.system.harness import wait_for

ANSWER_S = 60.0


def make_topics(bootstrap: str, *topics: NewTopic) -> None:
    """Create them and wait until the broker tells of them and serves each partition.

    It answers as soon as they are in its log: what a client asks next may still fail.
    Raises KafkaException when one cannot be created, such as one that exists.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.create_topics(list(topics)).values():
        done.result(ANSWER_S)
    partitions = [TopicPartition(t.topic, p) for t in topics for p in range(t.num_partitions)]

    def served() -> bool | None:
        told = admin.list_topics(timeout=ANSWER_S).topics
        if not all(t.topic in told and len(told[t.topic].partitions) for t in topics):
            return None
        ends = admin.list_offsets({each: OffsetSpec.latest() for each in partitions})
        try:
            return all(end.result(ANSWER_S).offset >= 0 for end in ends.values()) or None
        except KafkaException:
            return None

    wait_for(f"{', '.join(t.topic for t in topics)} served", served)
