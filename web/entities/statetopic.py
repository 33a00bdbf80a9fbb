"""Reading ``entity-state`` from offset 0, as anyone would who has nothing else. Blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import confluent_kafka as ck

from app.engine.read_ahead import READ_AHEAD
from tables.entities.snapshot import digest
from web.entities.comparing import Latest

TOPIC: Final = "entity-state"
KEYS_MAX: Final = 500_000
"""Keys of one partition that are followed, about 60 MB; with more the rebuild fails."""
BATCH: Final = 500
STALL_S: Final = 30.0
REQUEST_S: Final = 5.0


class StateTopicError(Exception):
    """The topic could not be read to its end; the text says why."""


class StateTopic:
    """The committed records of ``entity-state``, one partition at a time.

    Used by one thread at a time; :meth:`stop` may come from another.
    """

    def __init__(self, bootstrap: str, physical: Callable[[str], str]) -> None:
        """``bootstrap`` is ``host:port,host:port``; ``physical`` maps logical topic names."""
        self._bootstrap = bootstrap
        self._topic = physical(TOPIC)
        self._consumer: ck.Consumer | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """The worker stops: a read that is under way ends with an error."""
        self._stopped.set()

    def close(self) -> None:
        """Leave the broker until the next read."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def end(self, partition: int) -> int:
        """Offset after the last committed record. Raises :class:`StateTopicError`."""
        wanted = ck.TopicPartition(self._topic, partition)
        try:
            # With this isolation level the broker tells the last stable offset.
            return self._open().get_watermark_offsets(wanted, timeout=REQUEST_S)[1]
        except ck.KafkaException as exc:
            raise StateTopicError(f"the broker did not tell offsets: {exc.args[0].str()}") from exc

    def read(self, partition: int) -> Latest:
        """Every committed record of the partition there is now. Raises :class:`StateTopicError`."""
        end, latest, consumer = self.end(partition), Latest(), self._open()
        try:
            consumer.assign([ck.TopicPartition(self._topic, partition, ck.OFFSET_BEGINNING)])
            deadline = time.monotonic() + STALL_S
            while True:
                messages = consumer.consume(BATCH, 0.1)
                began = time.thread_time()
                if self._take(latest, messages, end):
                    return latest
                if self._stopped.is_set():
                    raise StateTopicError("the worker stops")
                if messages:
                    deadline = time.monotonic() + STALL_S
                    # Half a core at most: the event loop shares the interpreter.
                    time.sleep(time.thread_time() - began)
                elif time.monotonic() > deadline:
                    raise StateTopicError(f"nothing to read of {TOPIC}/{partition}: is Kafka away?")
        except ck.KafkaException as exc:
            raise StateTopicError(f"{TOPIC}/{partition}: {exc.args[0].str()}") from exc
        finally:
            consumer.unassign()

    @staticmethod
    def _take(latest: Latest, messages: list[ck.Message], end: int) -> bool:
        """Note the records; whether all below ``end`` are.

        The client reports the end of a partition only when a fetch comes back empty, which
        it never does while records keep coming; and what lies below the end may be markers
        of transactions, which are never seen. So either sign will do.
        """
        for message in messages:
            error, offset = message.error(), message.offset() or 0
            if error is not None:
                if error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    return True
                raise StateTopicError(f"{TOPIC}/{message.partition()}: {error.str()}")
            key, value = message.key(), message.value()
            if isinstance(key, bytes):  # compaction refuses records without one
                latest.keys[key] = (None if value is None else digest(key, value), offset)
                latest.records += 1
            if len(latest.keys) > KEYS_MAX:
                raise StateTopicError(f"a partition of {TOPIC} has more than {KEYS_MAX} keys")
        return bool(messages) and (messages[-1].offset() or 0) >= end - 1

    def _open(self) -> ck.Consumer:
        if self._consumer is None:
            self._consumer = ck.Consumer(consumer_config(self._bootstrap, self._topic))
        return self._consumer


def consumer_config(bootstrap: str, topic: str) -> dict[str, str | int | float | bool]:
    """The consumer: committed records of partitions given by hand; it joins no group."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": f"{topic}-rebuild",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
        "log_level": 0,
        **READ_AHEAD,
    }
