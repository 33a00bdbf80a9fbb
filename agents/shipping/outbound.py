"""The shipper's producer: idempotent, acks=all, bounded, and honest about what arrived."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

RecordHeaders = list[tuple[str, str | bytes | None]]
BUFFER_MESSAGES_MAX: Final = 50_000
BUFFER_KIB_MAX: Final = 32 * 1024
_POLL_S: Final = 0.1


class BrokerError(Exception):
    """The broker does not take records; the text is one sentence for the operator."""


class Outbound:
    """Sends records and counts the acknowledged ones by topic.

    ``timeout_s`` is how long the broker may be away before :class:`BrokerError`.
    """

    def __init__(self, bootstrap: str, timeout_s: float) -> None:
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._refused: KafkaError | None = None
        self.acknowledged: dict[str, int] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "headrace-ship",
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                # As every Kafka client but librdkafka hashes: the partition decides the owner.
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": BUFFER_MESSAGES_MAX,
                "queue.buffering.max.kbytes": BUFFER_KIB_MAX,
                "message.timeout.ms": int(timeout_s * 1_000),
                "socket.connection.setup.timeout.ms": 2_000,
                # Its own lines on stderr would drown the one sentence the operator needs, and
                # without a callback it prints errors whatever the level.
                "log_level": 0,
                "error_cb": _ignore,
            }
        )

    def check(self, topics: Iterable[str]) -> None:
        """Raise :class:`BrokerError` unless a broker answers and has the topics."""
        try:
            known = self._producer.list_topics(timeout=self._timeout_s).topics
        except KafkaException as exc:
            raise BrokerError(
                f"no Kafka broker answers at {self._bootstrap} ({_text(exc.args[0])}): "
                "start a worker (make run), or set HEADRACE_BROKER"
            ) from exc
        missing = sorted(set(topics) - set(known))
        if missing:
            raise BrokerError(
                f"the broker at {self._bootstrap} has no topic {', '.join(missing)}: "
                "start a worker once, it creates them"
            )

    def send(self, topic: str, key: bytes, value: bytes, headers: RecordHeaders) -> None:
        """Queue one record, waiting for room; raises :class:`BrokerError`."""
        while True:
            try:
                self._producer.produce(
                    topic, value, key, headers=headers, on_delivery=self._delivered
                )
                break
            except BufferError:
                self._serve(_POLL_S)
            except KafkaException as exc:
                raise self._error(exc.args[0]) from exc
        self._serve(0)

    def flush(self) -> None:
        """Wait until everything queued is acknowledged; raises :class:`BrokerError`."""
        while self._producer.flush(_POLL_S):
            self._serve(0)
        self._serve(0)

    def close(self) -> None:
        """Drop what is still queued (nothing, after :meth:`flush`)."""
        self._producer.purge()
        self._producer.poll(0)

    def _serve(self, timeout_s: float) -> None:
        self._producer.poll(timeout_s)
        if self._refused is not None:
            raise self._error(self._refused)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = self._refused or error
            return
        topic = message.topic() or ""
        self.acknowledged[topic] = self.acknowledged.get(topic, 0) + 1

    def _error(self, error: KafkaError) -> BrokerError:
        return BrokerError(
            f"the broker at {self._bootstrap} takes no more records ({_text(error)})"
        )


def _ignore(_error: KafkaError) -> None:
    """Connection errors: what they mean for a record comes with its delivery report."""


def _text(error: KafkaError) -> str:
    return str(error.str())
