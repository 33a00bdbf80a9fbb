"""The archiver of a worker: a thread that reads committed records and writes them as files."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import confluent_kafka as ck

from agents.history.compaction import compact
from agents.history.files import write_rows
from agents.history.progress import Progress, plan
from agents.history.source import Topic, described, log_start
from agents.history.target import ArchiverMetrics, ArchiveTarget, consumer_config
from agents.history.trouble import Trouble
from app.engine.clock import Clock
from app.engine.partitioner import partition_for
from tables.history.datasets import DATASETS, Dataset, NotARowError
from tables.history.names import DAY_MS, HistoryFile, Source, day_of
from tables.history.parquet import defect
from tables.history.store import DatasetStore
from tables.history.stores import dataset_store

logger = logging.getLogger(__name__)

BATCH: Final = 500
ROW_BYTES: Final = 512
"""What a row takes besides its record's bytes, about."""
HELD_BYTES_MAX: Final = 32 << 20
"""Rows held of all partitions together; beyond it the largest batches are written early."""
POLL_S: Final = 0.5
SHARE: Final = 0.5
"""Of one CPU, when there is much to archive: agents and web of the worker go before."""
COMPACT_S: Final = 60.0
RETRY_S_MAX: Final = 30.0
CHECKED_DAYS: Final = 8
"""Newest days whose files are looked into at assignment: what is older the log has no more."""
TOLD_MAX: Final = 20
"""Records that are no rows and are each told of; further ones are counted only."""


class _AnewError(Exception):
    """Files or log are not what they were: look at both again."""


@dataclass(slots=True)
class _Part:
    """A partition assigned to this archiver."""

    topic: str
    dataset: Dataset
    store: DatasetStore
    progress: Progress


_OnPartitions = Callable[[ck.Consumer, list[ck.TopicPartition]], None]


class Archiver:
    """Archives until stopped. All work is done in its thread; nothing is asked of it."""

    def __init__(self, target: ArchiveTarget, clock: Clock, metrics: ArchiverMetrics) -> None:
        self._target = target
        self._clock = clock
        self._metrics = metrics
        self._by_topic = {topic: DATASETS[name] for name, topic in target.topics.items()}
        self._parts: dict[tuple[str, int], _Part] = {}
        self._raised: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name="history", daemon=True)
        self._told = 0
        self._compacted_s = clock.monotonic()
        self._trouble = Trouble(target.place, clock)
        self.alert = self._trouble.alert

    def start(self) -> None:
        """Begin, in a thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Write what is pending and end. Blocks; what takes too long is read again later."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def run(self) -> None:
        """Archive in this thread; whatever goes wrong is told, and begun anew."""
        wait_s = 1.0
        while not self._stopping.is_set():
            began_s = self._clock.monotonic()
            try:
                self._session()
            except _AnewError as exc:
                logger.info("history is looked at anew: %s", exc)
            except Exception as exc:  # noqa: BLE001 - it must not end before its worker does
                self._trouble.met(exc, wait_s)
            else:
                return
            self._metrics.failures.inc()
            self._stopping.wait(wait_s)
            lasted = self._clock.monotonic() - began_s > RETRY_S_MAX * 2
            wait_s = 1.0 if lasted else min(wait_s * 2, RETRY_S_MAX)

    def _session(self) -> None:
        """From joining the group to leaving it, or to the first thing that goes wrong."""
        consumer = ck.Consumer(consumer_config(self._target))
        try:
            consumer.subscribe(
                list(self._by_topic),
                on_assign=self._kept(self._assigned),
                on_revoke=self._kept(self._revoked),
                on_lost=lambda _consumer, _partitions: self._parts.clear(),
            )
            while not self._stopping.is_set():
                self._step(consumer)
            for part in self._parts.values():
                self._write(part, consumer)
        finally:
            # What is pending after a failure is read again from the log.
            self._parts.clear()
            consumer.close()

    def _step(self, consumer: ck.Consumer) -> None:
        messages = consumer.consume(BATCH, POLL_S)
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
        began_s = self._clock.monotonic()
        for message in messages:
            self._take(message, consumer)
        self._write_due(consumer)
        if self._clock.monotonic() - self._compacted_s >= COMPACT_S:
            self._compact()
            self._compacted_s = self._clock.monotonic()
        if len(messages) == BATCH:
            self._stopping.wait((self._clock.monotonic() - began_s) * (1 / SHARE - 1))

    # -- the group ---------------------------------------------------------------------------

    def _kept(self, callback: _OnPartitions) -> _OnPartitions:
        """The callback, what it raises kept for the next step.

        The client hands on what a callback raises as a ``KafkaError``, which is no exception:
        nothing catches it, and the thread ends.
        """

        def run(consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
            try:
                callback(consumer, partitions)
            except Exception as exc:  # noqa: BLE001 - raised by the next step
                self._raised = exc

        return run

    def _assigned(self, consumer: ck.Consumer, assigned: list[ck.TopicPartition]) -> None:
        topics = described(self._target.bootstrap, {each.topic for each in assigned})
        self._parts.clear()
        for each in assigned:
            part = self._part(consumer, each, topics[each.topic])
            self._parts[each.topic, each.partition] = part
            each.offset = part.progress.pending.next
        consumer.assign(assigned)

    def _revoked(self, consumer: ck.Consumer, _revoked: list[ck.TopicPartition]) -> None:
        parts = list(self._parts.values())
        self._parts.clear()
        for part in parts:
            try:
                self._write(part, consumer)
            except (OSError, _AnewError) as exc:
                logger.warning("history is left to the next owner: %s", exc)

    def _part(self, consumer: ck.Consumer, of: ck.TopicPartition, topic: Topic) -> _Part:
        """A partition as its files tell it. Raises when store or broker do not answer."""
        dataset = self._by_topic[of.topic]
        store = dataset_store(self._target.place, self._target.namespace, dataset.name)
        source = Source(topic.topic_id, of.partition)
        store.sweep(self._clock.now_ms())
        self._check(store, dataset, source)
        files = _of(store.files(), source)
        lowest = min((f.first for f in files + _of(store.aside(), source)), default=None)
        todo = plan(files, lowest, log_start(consumer, of))
        if todo.lost:
            logger.warning(
                "%s/%d: up to %d records were removed from the log before they were archived: "
                "all workers were away for longer than the topic's retention",
                of.topic, of.partition, todo.lost,
            )  # fmt: skip
        return _Part(of.topic, dataset, store, Progress(source, topic.partitions, todo.gaps))

    def _check(self, store: DatasetStore, dataset: Dataset, source: Source) -> None:
        """Set aside what cannot be read while the log may still have it."""
        since = day_of(self._clock.now_ms() - CHECKED_DAYS * DAY_MS)
        for file in _of(store.files(), source):
            if file.day >= since and (reason := defect(store, file, dataset)) is not None:
                logger.warning("history file %s is set aside: %s", store.where(file), reason)
                store.set_aside(file)

    # -- records -----------------------------------------------------------------------------

    def _take(self, message: ck.Message, consumer: ck.Consumer) -> None:
        _check_error(message)
        offset, partition = message.offset() or 0, message.partition() or 0
        part = self._parts.get((message.topic() or "", partition))
        if part is None:
            return
        progress = part.progress
        if not progress.goes_on(offset):
            raise _AnewError(f"offsets of {part.topic}/{partition} went back to {offset}")
        while progress.beyond(offset):
            progress.close_gap()
            self._write(part, consumer)
            progress.next_gap()
        if offset < progress.pending.next:
            return  # between two gaps: files have it
        append_ms = max(0, message.timestamp()[1])
        if not progress.pending.fits(append_ms):
            self._write(part, consumer)
        key, value = message.key(), message.value()
        try:
            taken = part.dataset.take(key, value, append_ms)
        except NotARowError as exc:
            progress.pending.skip(offset)
            self._reject(part, partition, offset, exc)
            return
        placed = key is not None and partition_for(key, progress.partitions) == partition
        size = ROW_BYTES + len(value or b"")
        progress.pending.add(offset, taken, append_ms, size, placed, self._clock.monotonic())
        if progress.pending.full():
            self._write(part, consumer)

    def _reject(self, part: _Part, partition: int, offset: int, why: NotARowError) -> None:
        self._metrics.rejected.labels(part.dataset.name).inc()
        if self._told < TOLD_MAX:
            self._told += 1
            logger.warning(
                "%s/%d offset %d is not archived: %s", part.topic, partition, offset, why
            )

    # -- files -------------------------------------------------------------------------------

    def _write(self, part: _Part, consumer: ck.Consumer) -> None:
        """Write what is pending. Raises :class:`OSError`; nothing is lost by that."""
        progress, pending = part.progress, part.progress.pending
        if not pending.rows:
            return
        if progress.overlaps(_of(part.store.files(), pending.source)):
            # What another archiver wrote meanwhile counts. Readers would sort it out, too.
            raise _AnewError(f"{part.topic}/{pending.source.partition} was archived by another")
        write_rows(part.store, pending.file(progress.partitions), part.dataset, pending.rows)
        self._metrics.rows.labels(part.dataset.name).inc(len(pending.rows))
        pending.written()
        self._trouble.over()
        # For those who watch the group's lag; where to go on, the names say.
        with contextlib.suppress(ck.KafkaException):
            where = ck.TopicPartition(part.topic, pending.source.partition, pending.next)
            consumer.store_offsets(offsets=[where])

    def _write_due(self, consumer: ck.Consumer) -> None:
        now_s = self._clock.monotonic()
        for part in self._parts.values():
            if part.progress.pending.due(now_s, self._target.age_max_s):
                self._write(part, consumer)
        largest = sorted(self._parts.values(), key=lambda part: part.progress.pending.bytes)
        held = sum(part.progress.pending.bytes for part in largest)
        while held > HELD_BYTES_MAX:
            part = largest.pop()
            held -= part.progress.pending.bytes
            self._write(part, consumer)

    def _compact(self) -> None:
        for dataset in self._by_topic.values():
            parts = [part for part in self._parts.values() if part.dataset is dataset]
            if not parts:
                continue
            sources = {part.progress.pending.source for part in parts}
            now_ms = self._clock.now_ms()
            done = compact(parts[0].store, dataset, sources, now_ms, self._stopping.is_set)
            if done.aside:
                raise _AnewError("files that could not be read are written again from the log")


def _check_error(message: ck.Message) -> None:
    error = message.error()
    if error is None:
        return
    if error.fatal():
        raise ck.KafkaException(error)
    logger.warning("history: %s", error.str())


def _of(files: list[HistoryFile], source: Source) -> list[HistoryFile]:
    return [file for file in files if file.source == source]
