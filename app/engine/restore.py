"""Finds where a partition stands, and brings its local store up to the changelog.

Blocking; runs in a thread. Three things must agree: the committed source offset, the
source position in the changelog, and the one in the local store. Order matters:

1. the committed offsets, waiting for any transaction that still holds some
   (``require_stable``), so that whoever owned the partition before has had its say;
2. the changelog's end, all records, committed or not;
3. read the changelog, committed records only, until its last stable offset reaches that end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from app.engine.changelog import POSITION_KEY, parse_position, parse_record_key
from app.engine.counts import Counts, decode_metadata
from app.engine.epoch import TaskId
from app.engine.lanes import Lanes
from app.engine.offsets import GroupOffsets
from app.engine.spec import EngineConfig
from app.engine.store import Positions, Store

logger = logging.getLogger(__name__)

BATCH = 5_000
_REQUEST_S = 10.0
_ANSWER_S = _REQUEST_S + 5.0
"""librdkafka does not keep to the timeout of every request."""
_STABLE_S = 2.0


class RestoreCancelledError(Exception):
    """Partitions moved while they were being restored."""


class RestoreError(Exception):
    """The broker did not answer; the restore is tried again."""


@dataclass(frozen=True, slots=True)
class StartPoint:
    """What the group has committed for a source partition, and where its log starts."""

    committed: int | None
    log_start: int
    lanes: Lanes
    counts: Counts


@dataclass(slots=True)
class Progress:
    """How far a restore has come; read by ``/ready`` from another thread."""

    records: int = 0
    wanted: int = 0
    waiting_for: str = ""


class Restorer:
    """Restores partitions of one worker. One restore at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        common: dict[str, str | int | float | bool] = {
            "bootstrap.servers": config.bootstrap,
            "client.id": f"{config.worker}-restore",
            # Once every broker is down, librdkafka would forget all it knows of the cluster,
            # and a question under way then waits for ever, whatever its timeout.
            "metadata.recovery.strategy": "none",
        }
        self._common = common
        self._admin = AdminClient(common)
        self._group = GroupOffsets(config.bootstrap, config.group, f"{config.worker}-offsets")
        self._consumer_config = {
            **common,
            # Partitions are assigned by hand: this group id never joins a group.
            "group.id": f"{config.group}-restore",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 32_768,
        }

    def start_points(
        self, tasks: Iterable[TaskId], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[TaskId, StartPoint]:
        """Committed position, lanes, counts and log start of each task.

        Waits for offsets that a pending transaction holds; that is bounded by the
        transaction timeout plus the broker's scan interval.
        """
        wanted = list(tasks)
        if not wanted:
            return {}
        physical = self._config.physical
        tps = {(physical(t.topic), t.partition) for t in wanted}
        progress.waiting_for = "committed offsets (a transaction may still hold them)"
        found = self._committed(tps, cancelled)
        low = self._offsets(tps, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        points = {}
        for task in wanted:
            tp = (physical(task.topic), task.partition)
            committed = found[tp]
            points[task] = StartPoint(
                committed.offset if committed.offset >= 0 else None,
                low[tp],
                *decode_metadata(committed.metadata or ""),
            )
        return points

    def _committed(
        self, tps: Iterable[tuple[str, int]], cancelled: Callable[[], bool]
    ) -> dict[tuple[str, int], ck.TopicPartition]:
        while True:
            _check(cancelled)
            try:
                return self._group.committed(tps, _STABLE_S)
            except ck.KafkaException as exc:
                logger.info("committed offsets are not known yet: %s", exc.args[0].str())
                time.sleep(0.1)

    def close(self) -> None:
        """Disconnect."""
        self._group.close()

    def _offsets(
        self, tps: Iterable[tuple[str, int]], spec: OffsetSpec
    ) -> dict[tuple[str, int], int]:
        request = {ck.TopicPartition(topic, partition): spec for topic, partition in tps}
        if not request:
            return {}
        futures = self._admin.list_offsets(
            request,
            isolation_level=ck.IsolationLevel.READ_UNCOMMITTED,
            request_timeout=_REQUEST_S,
        )
        try:
            return {
                (tp.topic, tp.partition): future.result(_ANSWER_S).offset
                for tp, future in futures.items()
            }
        except (ck.KafkaException, TimeoutError) as exc:
            # A client keeps asking under the leader epoch it knows, and a restarted broker
            # has another: only a new client asks anew.
            self._admin = AdminClient(self._common)
            raise RestoreError(f"the broker did not tell offsets: {exc}") from exc

    def catch_up(
        self,
        stores: Mapping[TaskId, tuple[str, Store]],
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        """Apply each changelog (physical topic) to its store, up to its end now."""
        by_tp = {(topic, task.partition): (task, store) for task, (topic, store) in stores.items()}
        ends = self._offsets(by_tp, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        starts: dict[tuple[str, int], int] = {}
        for tp, (_, store) in by_tp.items():
            at = store.positions().changelog
            if at is not None and at > ends[tp]:
                logger.warning(
                    "%s is ahead of its changelog %s/%d (%d > %d): rebuilt",
                    store.path,
                    *tp,
                    at,
                    ends[tp],
                )
                store.reset()
                at = None
            starts[tp] = at or 0
        behind = {tp for tp in by_tp if starts[tp] < ends[tp]}
        progress.wanted = sum(ends[tp] - starts[tp] for tp in behind)
        progress.waiting_for = "changelog" if behind else ""
        if behind:
            self._read(by_tp, {tp: starts[tp] for tp in behind}, ends, progress, cancelled)
        progress.waiting_for = ""

    def _read(
        self,
        by_tp: Mapping[tuple[str, int], tuple[TaskId, Store]],
        starts: Mapping[tuple[str, int], int],
        ends: Mapping[tuple[str, int], int],
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        consumer = ck.Consumer(self._consumer_config)
        try:
            consumer.assign([ck.TopicPartition(*tp, offset) for tp, offset in starts.items()])
            pending = set(starts)
            while pending:
                _check(cancelled)
                held: dict[tuple[str, int], list[ck.Message]] = {}
                reached: dict[tuple[str, int], int] = {}
                for message in consumer.consume(BATCH, 0.2):
                    tp = (message.topic() or "", message.partition() or 0)
                    error = message.error()
                    if error is None:
                        held.setdefault(tp, []).append(message)
                    elif error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                        # The end a committed reader sees; it lies behind transaction markers.
                        reached[tp] = message.offset() or 0
                    else:
                        raise RestoreError(f"{tp[0]}/{tp[1]}: {error.str()}")
                for tp, messages in held.items():
                    apply_records(by_tp[tp][1], messages)
                    progress.records += len(messages)
                for tp, offset in reached.items():
                    if tp in pending and offset >= ends[tp]:
                        by_tp[tp][1].write({}, Positions(changelog=offset))
                        pending.discard(tp)
        finally:
            consumer.close()


def apply_records(store: Store, messages: Iterable[ck.Message]) -> None:
    """Apply changelog records of one partition to its store, in one write.

    Rows of unknown tables and records that are no rows (foreign garbage) change nothing.
    """
    families = set(store.families)
    changes: dict[str, dict[bytes, bytes | None]] = {}
    source: int | None = None
    last = -1
    for message in messages:
        last = message.offset() or 0
        key, value = message.key(), message.value()
        if key is None:
            continue
        if key == POSITION_KEY:
            at = parse_position(value)
            source = source if at is None else at
            continue
        parsed = parse_record_key(key)
        if parsed is not None and parsed[0] in families:
            changes.setdefault(parsed[0], {})[parsed[1]] = value
    store.write(changes, Positions(changelog=last + 1, source=source))


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise RestoreCancelledError
