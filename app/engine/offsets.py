"""The group's committed offsets, once no pending transaction holds them.

Asked through a consumer of the group that never joins it: read_committed makes it wait for
stable offsets. librdkafka's admin client has a call for the same, which ends the process
(2.16.0) when a coordinator answers that it is loading.
"""

from __future__ import annotations

from collections.abc import Iterable

import confluent_kafka as ck


class GroupOffsets:
    """Committed offsets of one group. Blocking; used by one thread."""

    def __init__(self, bootstrap: str, group: str, client_id: str) -> None:
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": client_id,
                "group.id": group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "metadata.recovery.strategy": "none",
            }
        )

    def committed(
        self, tps: Iterable[tuple[str, int]], timeout_s: float
    ) -> dict[tuple[str, int], ck.TopicPartition]:
        """Offset (negative: none) and metadata of each (physical topic, partition).

        Raises :class:`confluent_kafka.KafkaException` when they are not known in time, be
        it that the coordinator does not answer or that a transaction is pending.
        """
        found = self._consumer.committed(
            [ck.TopicPartition(topic, partition) for topic, partition in tps], timeout_s
        )
        for position in found:
            if position.error is not None:
                raise ck.KafkaException(position.error)
        return {(p.topic, p.partition): p for p in found}

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()
