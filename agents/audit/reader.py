"""The auditor's way to Kafka: committed offsets, ends of logs, records. Blocking.

It reads by hand-assigned partitions and joins no group, so it moves nobody's partitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from agents.audit.accounts import Committed, Cut
from agents.audit.books import TopicPartition
from agents.audit.marks import read_account, read_since

BATCH: Final = 500
"""Records taken at once: about 3 ms of work, so that a worker's event loop hardly waits."""
REQUEST_S: Final = 10.0
SLACK_S: Final = 3.0
"""librdkafka does not keep to the timeout of every request."""
STABLE_S: Final = 2.0
STALL_S: Final = 30.0
"""How long a transaction left open, or a broker that is away, is waited for."""


class AuditError(Exception):
    """The audit could not be made; the text says why. It says nothing of the ledger."""


class AuditStoppedError(Exception):
    """The worker stops."""


FETCH_BYTES = 64 << 10
"""Of each partition at once. A fetch is unpacked as a whole, and lines of a log may shrink to a
hundredth: a million small events took a worker 240 MiB with librdkafka's megabyte, 58 with this."""


@dataclass(frozen=True, slots=True)
class AuditTarget:
    """Whom to audit: the group, on its brokers. ``physical`` maps logical topic names.

    ``record_bytes_max`` is the largest record the topics admit.
    """

    bootstrap: str
    group: str
    physical: Callable[[str], str]
    partitions: Mapping[str, int]
    record_bytes_max: int


Take = Callable[[TopicPartition, list[ck.Message]], bool]
"""Given records of one partition in order; False: read no more of it now."""


class Reader:
    """Reads committed records and offsets under logical names."""

    def __init__(self, target: AuditTarget, share: float, stopped: Callable[[], bool]) -> None:
        """``share``: of one CPU at most, 0 < share <= 1; ``stopped``: whether to give up."""
        self.target = target
        self._share = share
        self._stopped = stopped
        self._logical = {target.physical(name): name for name in target.partitions}
        common: dict[str, str | int | float | bool] = {
            "bootstrap.servers": target.bootstrap,
            "client.id": f"{target.group}-audit",
            "log_level": 0,
            # Else librdkafka forgets the cluster once every broker is down, and questions under
            # way wait for ever.
            "metadata.recovery.strategy": "none",
        }
        self._common = common
        self._admin = AdminClient(common)
        # A consumer of the group that never joins it: read_committed waits for stable offsets.
        self._group = ck.Consumer(
            {
                **common,
                "group.id": target.group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        self._consumer = ck.Consumer(
            {
                **common,
                "group.id": f"{target.group}-audit",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 8_192,
                "fetch.message.max.bytes": FETCH_BYTES,
            }
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
        self._group.close()

    def cut(self, topics: Iterable[str]) -> Cut:
        """What the group has committed, once no transaction holds any of it."""
        target = self.target
        wanted = [
            ck.TopicPartition(target.physical(topic), partition)
            for topic in topics
            for partition in range(target.partitions[topic])
        ]
        deadline = time.monotonic() + STALL_S
        while True:
            try:
                found = self._group.committed(wanted, STABLE_S)
                failure = next((each.error.str() for each in found if each.error), "")
            except ck.KafkaException as exc:
                failure = exc.args[0].str()
            if not failure:
                return {
                    (self._logical[each.topic], each.partition): Committed(
                        each.offset, read_account(each.metadata), read_since(each.metadata)
                    )
                    for each in found
                    if each.offset >= 0
                }
            self._wait(deadline, f"the group's committed offsets are not known: {failure}")

    def log_starts(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """First offset of each partition."""
        return self._offsets(topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """End of each partition, records not yet committed included."""
        return self._offsets(topics, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def _offsets(self, topics: Iterable[str], spec: OffsetSpec) -> dict[TopicPartition, int]:
        target = self.target
        request = {
            ck.TopicPartition(target.physical(topic), partition): spec
            for topic in topics
            for partition in range(target.partitions[topic])
        }
        futures = self._admin.list_offsets(
            request,
            isolation_level=ck.IsolationLevel.READ_UNCOMMITTED,
            request_timeout=REQUEST_S,
        )
        try:
            offsets = {
                (self._logical[tp.topic], tp.partition): future.result(REQUEST_S + SLACK_S).offset
                for tp, future in futures.items()
            }
            why = "no broker can be reached"
        except (ck.KafkaException, TimeoutError) as exc:
            offsets, why = {}, str(exc)
        # While every broker is away the client tells no error, but offsets below 0.
        if min(offsets.values(), default=-1) < 0:
            # A client keeps asking under the leader epoch it knows, and a restarted broker
            # has another: only a new client asks anew.
            self._admin = AdminClient(self._common)
            raise AuditError(f"the broker did not tell offsets: {why}")
        return offsets

    def retention_ms(self, topic: str) -> int:
        """How long the topic keeps records; -1: for ever."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, self.target.physical(topic))
        futures = self._admin.describe_configs([resource], request_timeout=REQUEST_S)
        try:
            told = futures[resource].result(REQUEST_S + SLACK_S)
            return int(told["retention.ms"].value)
        except (ck.KafkaException, TimeoutError, KeyError, TypeError, ValueError) as exc:
            raise AuditError(f"the broker did not tell the retention of {topic}: {exc}") from exc

    def read(
        self, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], take: Take
    ) -> dict[TopicPartition, int]:
        """Read each partition from its start to its end; where each was left.

        Committed records only, and all of them: an end that an open transaction covers is
        waited for. Raises :class:`AuditError` when nothing moves for :data:`STALL_S`.
        """
        left = dict(starts)
        pending = {tp for tp, offset in starts.items() if offset < ends[tp]}
        if not pending:
            return left
        physical = self.target.physical
        assigned = [ck.TopicPartition(physical(t), p, starts[t, p]) for t, p in sorted(pending)]
        self._consumer.assign(assigned)
        self._consumer.resume(assigned)
        try:
            deadline = time.monotonic() + STALL_S
            while pending:
                messages = self._consumer.consume(BATCH, 0.1)
                began = time.thread_time()
                done = self._take(messages, pending, left, ends, take)
                pending -= done
                if done and pending:
                    self._consumer.pause([ck.TopicPartition(physical(t), p) for t, p in done])
                if done or any(each.error() is None for each in messages):
                    deadline = time.monotonic() + STALL_S
                    time.sleep((time.thread_time() - began) * (1 / self._share - 1))
                where = ", ".join(f"{t}/{p}" for t, p in sorted(pending)[:3])
                self._check(deadline, f"nothing to read of {where} (a transaction is open)")
        finally:
            self._consumer.unassign()
        return left

    def _take(
        self,
        messages: list[ck.Message],
        pending: set[TopicPartition],
        left: dict[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
        take: Take,
    ) -> set[TopicPartition]:
        held: dict[TopicPartition, list[ck.Message]] = {}
        done: set[TopicPartition] = set()
        for message in messages:
            tp = (self._logical[message.topic() or ""], message.partition() or 0)
            offset, error = message.offset() or 0, message.error()
            if tp not in pending or tp in done:
                continue
            if error is None and offset < ends[tp]:
                held.setdefault(tp, []).append(message)
                left[tp] = offset + 1
            elif error is None:
                left[tp] = ends[tp]
            elif error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                # The end a committed reader sees; it lies behind transaction markers.
                left[tp] = max(left[tp], offset)
            else:
                raise AuditError(f"{tp[0]}/{tp[1]} cannot be read: {error.str()}")
            if left[tp] >= ends[tp]:
                done.add(tp)
        for tp, records in held.items():
            if not take(tp, records):
                done.add(tp)
        return done

    def _wait(self, deadline: float, reason: str) -> None:
        self._check(deadline, reason)
        time.sleep(0.1)

    def _check(self, deadline: float, reason: str) -> None:
        if self._stopped():
            raise AuditStoppedError
        if time.monotonic() >= deadline:
            raise AuditError(f"{reason}, for {STALL_S:.0f} s")
