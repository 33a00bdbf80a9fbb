"""Reading ``entity-state`` from offset 0, as anyone would who has nothing else. Blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import confluent_kafka as ck

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
    """The committed records of ``entity-state``, one partition at a time."""

    def __init__(self, bootstrap: str, physical: Callable[[str], str]) -> None:
        """``bootstrap`` is ``host:port,host:port``; ``physical`` maps logical topic names."""
        self._bootstrap = bootstrap
        self._topic = physical(TOPIC)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """The worker stops: a read that is under way ends with an error."""
        self._stopped.set()

    def end(self, partition: int) -> int:
        """Offset after the last committed record. Raises :class:`StateTopicError`."""
        consumer = self._consumer()
        try:
            wanted = ck.TopicPartition(self._topic, partition)
            # With this isolation level the broker tells the last stable offset.
            return consumer.get_watermark_offsets(wanted, timeout=REQUEST_S)[1]
        except ck.KafkaException as exc:
            raise StateTopicError(f"the broker did not tell offsets: {exc.args[0].str()}") from exc
        finally:
            consumer.close()

    def read(self, partition: int) -> Latest:
        """Every committed record of the partition there is now. Raises :class:`StateTopicError`."""
        latest = Latest()
        consumer = self._consumer()
        try:
            consumer.assign([ck.TopicPartition(self._topic, partition, ck.OFFSET_BEGINNING)])
            deadline = time.monotonic() + STALL_S
            while True:
                messages = consumer.consume(BATCH, 0.2)
                began = time.thread_time()
                if self._take(latest, messages):
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
            consumer.close()

    @staticmethod
    def _take(latest: Latest, messages: list[ck.Message]) -> bool:
        """Note the records; whether the end was among them."""
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    return True
                raise StateTopicError(f"{TOPIC}/{message.partition()}: {error.str()}")
            key, value = message.key(), message.value()
            if not isinstance(key, bytes):
                continue  # compaction refuses records without a key: not one of ours
            told = None if value is None else digest(key, value)
            latest.keys[key] = (told, message.offset() or 0)
            latest.records += 1
            if len(latest.keys) > KEYS_MAX:
                raise StateTopicError(f"a partition of {TOPIC} has more than {KEYS_MAX} keys")
        return False

    def _consumer(self) -> ck.Consumer:
        return ck.Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"{self._topic}-rebuild",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 8_192,
                "log_level": 0,
            }
        )
