"""The group's committed offsets, once no pending transaction holds them; and what is no offset.

Asked through a consumer of the group that never joins it: read_committed makes it wait for
stable offsets. librdkafka's admin client has a call for the same, which ends the process
(2.16.0) when a coordinator answers that it is loading.
"""

from __future__ import annotations

from collections.abc import Iterable

import confluent_kafka as ck
from confluent_kafka.admin._listoffsets import ListOffsetsResultInfo

from app.engine.clients import OUTAGES

_ANSWER_S = 2.0
_STABLE_S = 0.2
_NAMED_MAX = 12
"""Partitions asked for one by one: bounds what finding out the cause takes."""


class NoOffsetError(Exception):
    """The client answered for a broker that did not."""


def told_offset(told: ListOffsetsResultInfo) -> int:
    """The offset a broker told. Raises :class:`NoOffsetError` where none did.

    While every broker is away a client that does not forget them tells no error, but an offset
    that is none (-1001): any store would seem to be ahead of its changelog.
    """
    offset = int(told.offset)
    if offset < 0:
        raise NoOffsetError("no broker can be reached")
    return offset


class GroupOffsets:
    """Committed offsets of one group. Blocking; used by one thread."""

    def __init__(self, bootstrap: str, group: str, client_id: str) -> None:
        self._group = group
        self._config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            # While a transaction is pending the client asks again, by default after up to
            # a second, which the partitions would stand still for once it has ended.
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 50,
            **OUTAGES,
        }
        self._consumer = ck.Consumer(self._config)

    def committed(
        self, tps: Iterable[tuple[str, int]], timeout_s: float
    ) -> dict[tuple[str, int], ck.TopicPartition]:
        """Offset (negative: none) and metadata of each (physical topic, partition).

        Raises :class:`confluent_kafka.KafkaException` when they are not known in time, be
        it that the coordinator does not answer or that a transaction is pending.
        """
        return _ask(self._consumer, tps, timeout_s)

    def why_not(self, tps: Iterable[tuple[str, int]]) -> str:
        """Why they are not known: a sentence. Takes a few seconds at most.

        Offsets that may still change are told at once, so a coordinator that does not even
        tell those does not answer at all.
        """
        wanted = list(tps)
        anyone = ck.Consumer({**self._config, "isolation.level": "read_uncommitted"})
        try:
            _ask(anyone, wanted, _ANSWER_S)
        except ck.KafkaException as exc:
            return f"the coordinator of group {self._group} does not answer ({exc.args[0].str()})"
        finally:
            anyone.close()
        held = [
            f"{topic}/{partition}"
            for topic, partition in wanted[:_NAMED_MAX]
            if self._held(topic, partition)
        ]
        return (
            f"a transaction that its producer has not ended holds {', '.join(held) or 'some'}; "
            "the broker ends it after its transaction timeout; kafka-transactions.sh find-hanging "
            "names one that hangs"
        )

    def _held(self, topic: str, partition: int) -> bool:
        try:
            _ask(self._consumer, [(topic, partition)], _STABLE_S)
        except ck.KafkaException:
            return True
        return False

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


def _ask(
    consumer: ck.Consumer, tps: Iterable[tuple[str, int]], timeout_s: float
) -> dict[tuple[str, int], ck.TopicPartition]:
    found = consumer.committed(
        [ck.TopicPartition(topic, partition) for topic, partition in tps], timeout_s
    )
    for position in found:
        if position.error is not None:
            raise ck.KafkaException(position.error)
    return {(p.topic, p.partition): p for p in found}
