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

from app.engine.changelog import POSITION_KEY, parse_position, parse_record_key, parse_since_key
from app.engine.clients import OUTAGES
from app.engine.effects import KeyRange
from app.engine.epoch import TaskId
from app.engine.offsets import GroupOffsets, NoOffsetError, told_offset
from app.engine.progress import Progress
from app.engine.read_ahead import READ_AHEAD
from app.engine.spec import EngineConfig
from app.engine.store import Positions, Store

logger = logging.getLogger(__name__)

BATCH = 5_000
_REQUEST_S = 5.0
_SLACK_S = 3.0
"""librdkafka does not keep to the timeout of every request."""
_STABLE_S = 2.0
_WHY_S = 2.0
_POLL_S = 0.05
"""Longest wait for a full batch: what a restore with nothing to read costs."""
_NAMED_MAX = 3

_TopicPartition = tuple[str, int]


class RestoreCancelledError(Exception):
    """Partitions moved while they were being restored."""


class RestoreError(Exception):
    """The broker did not answer; the restore is tried again."""


@dataclass(frozen=True, slots=True)
class StartPoint:
    """What the group has committed for a source partition, and where its log starts."""

    committed: int | None
    log_start: int
    metadata: str


class Restorer:
    """Restores partitions of one worker. One restore at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        common: dict[str, str | int | float | bool] = {
            "bootstrap.servers": config.bootstrap,
            "client.id": f"{config.worker}-restore",
            **OUTAGES,
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
            "fetch.wait.max.ms": 20,
            **READ_AHEAD,
        }

    def start_points(
        self, tasks: Iterable[TaskId], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[TaskId, StartPoint]:
        """Committed position and metadata, and log start, of each task.

        Waits for offsets that a pending transaction holds; that is bounded by the
        transaction timeout plus the broker's scan interval.
        """
        wanted = list(tasks)
        if not wanted:
            return {}
        physical = self._config.physical
        tps = {(physical(t.topic), t.partition) for t in wanted}
        progress.waits("the group's committed offsets")
        found = self._committed(tps, progress, cancelled)
        progress.waits("the broker to tell where topics begin and end")
        low = self._offsets(tps, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        points = {}
        for task in wanted:
            tp = (physical(task.topic), task.partition)
            committed = found[tp]
            offset = committed.offset if committed.offset >= 0 else None
            points[task] = StartPoint(offset, low[tp], committed.metadata or "")
        return points

    def _committed(
        self, tps: Iterable[_TopicPartition], progress: Progress, cancelled: Callable[[], bool]
    ) -> dict[_TopicPartition, ck.TopicPartition]:
        while True:
            _check(cancelled)
            try:
                return self._group.committed(tps, _STABLE_S)
            except ck.KafkaException as exc:
                logger.info("committed offsets are not known yet: %s", exc.args[0].str())
            if progress.in_doubt():
                progress.explain(self._group.why_not(tps))
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Disconnect."""
        self._group.close()

    def _offsets(
        self,
        tps: Iterable[_TopicPartition],
        spec: OffsetSpec,
        isolation: ck.IsolationLevel = ck.IsolationLevel.READ_UNCOMMITTED,
        request_s: float = _REQUEST_S,
    ) -> dict[_TopicPartition, int]:
        request = {ck.TopicPartition(topic, partition): spec for topic, partition in tps}
        if not request:
            return {}
        futures = self._admin.list_offsets(
            request,
            isolation_level=isolation,
            request_timeout=request_s,
        )
        try:
            return {
                (tp.topic, tp.partition): told_offset(future.result(request_s + _SLACK_S))
                for tp, future in futures.items()
            }
        except (ck.KafkaException, TimeoutError, NoOffsetError) as exc:
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
        by_tp = {(topic, task.partition): store for task, (topic, store) in stores.items()}
        progress.waits("the broker to tell where topics begin and end")
        ends = self._offsets(by_tp, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        behind: dict[_TopicPartition, int] = {}
        for tp, store in by_tp.items():
            at = store.positions().changelog or 0
            if at > ends[tp]:
                logger.warning(
                    "%s is ahead of its changelog %s/%d (%d > %d): rebuilt",
                    store.path,
                    *tp,
                    at,
                    ends[tp],
                )
                store.reset()
                at = 0
            if at < ends[tp]:
                behind[tp] = at
        if behind:
            progress.wants(sum(ends[tp] - at for tp, at in behind.items()))
            progress.waits("changelog records")
            self._read(by_tp, behind, ends, progress, cancelled)

    def _read(
        self,
        stores: Mapping[_TopicPartition, Store],
        starts: Mapping[_TopicPartition, int],
        ends: Mapping[_TopicPartition, int],
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        consumer = ck.Consumer(self._consumer_config)
        at, pending = dict(starts), set(starts)
        try:
            consumer.assign([ck.TopicPartition(*tp, offset) for tp, offset in starts.items()])
            while pending:
                _check(cancelled)
                held, reached = _sorted(consumer.consume(BATCH, _POLL_S))
                for tp, messages in held.items():
                    size_bytes = apply_records(stores[tp], messages)
                    last = messages[-1].offset() or 0
                    progress.reads(last + 1 - at[tp], len(messages), size_bytes)
                    at[tp] = last + 1
                for tp, offset in reached.items():
                    if tp in pending and offset >= ends[tp]:
                        stores[tp].write({}, Positions(changelog=offset))
                        progress.reads(offset - at[tp], 0, 0)
                        pending.discard(tp)
                if progress.in_doubt():
                    progress.explain(self._why_short(pending, ends))
        finally:
            consumer.close()

    def _why_short(
        self, pending: Iterable[_TopicPartition], ends: Mapping[_TopicPartition, int]
    ) -> str:
        """Why a committed reader does not come to the end of these changelogs."""
        try:
            stable = self._offsets(
                pending,
                OffsetSpec.latest(),  # type: ignore[no-untyped-call]
                ck.IsolationLevel.READ_COMMITTED,
                _WHY_S,
            )
        except RestoreError as exc:
            return str(exc)
        held = {tp: ends[tp] - lso for tp, lso in stable.items() if lso < ends[tp]}
        if not held:
            return "the broker has records that can be read, and does not send them"
        named = ", ".join(
            f"{topic}/{partition} (last stable offset {stable[topic, partition]}, {behind} before "
            f"the end)"
            for (topic, partition), behind in sorted(held.items())[:_NAMED_MAX]
        )
        return (
            f"an open transaction holds {named}; it ends with its producer's commit or abort, or "
            "after its transaction timeout; kafka-transactions.sh find-hanging names one that hangs"
        )


def _sorted(
    messages: Iterable[ck.Message],
) -> tuple[dict[_TopicPartition, list[ck.Message]], dict[_TopicPartition, int]]:
    """Records by partition, and the ends that were reached, as a committed reader sees them."""
    held: dict[_TopicPartition, list[ck.Message]] = {}
    reached: dict[_TopicPartition, int] = {}
    for message in messages:
        tp = (message.topic() or "", message.partition() or 0)
        error = message.error()
        if error is None:
            held.setdefault(tp, []).append(message)
        elif error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            reached[tp] = message.offset() or 0  # it lies behind transaction markers
        else:
            raise RestoreError(f"{tp[0]}/{tp[1]}: {error.str()}")
    return held, reached


def apply_records(store: Store, messages: Iterable[ck.Message]) -> int:
    """Apply changelog records of one partition to its store, in one write; their bytes.

    Rows of unknown tables and records that are no rows (foreign garbage) change nothing. A
    table that began anew holds nothing of what came before.
    """
    families = set(store.families)
    changes: dict[str, dict[bytes, bytes | None]] = {}
    void: dict[str, list[KeyRange]] = {}
    source: int | None = None
    last, size_bytes = -1, 0
    for message in messages:
        last = message.offset() or 0
        key, value = message.key(), message.value()
        size_bytes += len(key or b"") + len(value or b"")
        if key is None:
            continue
        if key == POSITION_KEY:
            at = parse_position(value)
            source = source if at is None else at
            continue
        begun = parse_since_key(key)
        if begun in families:
            changes[begun], void[begun] = {}, store.everything(begun)
            continue
        parsed = parse_record_key(key)
        if parsed is not None and parsed[0] in families:
            changes.setdefault(parsed[0], {})[parsed[1]] = value
    store.write(changes, Positions(changelog=last + 1, source=source), void)
    return size_bytes


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise RestoreCancelledError
