"""Runs agents without a broker: topics are lists, state is in memory, time is given.

The same steps, layers, epochs and packing as in a worker; only Kafka, threads and clocks are
not there. For tests of agents::

    driver = Driver(agents, partitions={"log-events": 2, ...})
    driver.feed("log-events", [b"..."], partition=1)
    driver.advance(1_000)
    driver.rows("window-partials", "requests_per_endpoint")
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from prometheus_client import CollectorRegistry

from app.engine.attempts import Attempts, halted_by
from app.engine.batch import Headers, RecordBatch
from app.engine.cache import RowCache
from app.engine.counts import Counts
from app.engine.effects import Output
from app.engine.epoch import Epoch, TaskId
from app.engine.filling import Filling
from app.engine.lanes import Lanes
from app.engine.metrics import EngineMetrics
from app.engine.partitioner import partition_for
from app.engine.producing import chunks
from app.engine.reading import Reading
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.steps import Attempt, StepFailedError, run_step
from app.engine.store import Store
from app.engine.task import Task, TaskState

RECORD_BYTES_MAX = 2 << 20


class ManualClock:
    """Time that only moves when told. Implements :class:`app.engine.clock.Clock`."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return self._now_ms

    def monotonic(self) -> float:
        """The same in seconds."""
        return self._now_ms / 1000

    def advance(self, ms: int) -> None:
        """Let time pass."""
        self._now_ms += ms


class MemoryStore:
    """What :class:`app.engine.store.Store` does for a table, in a dict."""

    def __init__(self) -> None:
        self.rows = RowCache(0)
        self.families: dict[str, dict[bytes, bytes]] = defaultdict(dict)

    def get(self, family: str, key: bytes) -> bytes | None:
        """Raw value, or None."""
        return self.families[family].get(key)

    def range(
        self, family: str, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Raw rows with ``lo <= key < hi``, at most ``limit``."""
        keys = sorted(
            (k for k in self.families[family] if k >= lo and (hi is None or k < hi)),
            reverse=reverse,
        )
        return iter([(key, self.families[family][key]) for key in keys[:limit]])

    def keys(self, family: str, lo: bytes, hi: bytes, *, limit: int) -> list[bytes]:
        """Keys with ``lo <= key < hi``, at most ``limit``."""
        return sorted(key for key in self.families[family] if lo <= key < hi)[:limit]

    def write(self, family: str, changes: Mapping[bytes, bytes | None]) -> None:
        """Apply changes; None deletes."""
        for key, value in changes.items():
            if value is None:
                self.families[family].pop(key, None)
            else:
                self.families[family][key] = value


class Driver:
    """All partitions of some agents. Everything fed is processed before ``feed`` returns."""

    def __init__(
        self, agents: Iterable[AgentSpec], partitions: Mapping[str, int], now_ms: int = 0
    ) -> None:
        self.clock = ManualClock(now_ms)
        self.topics: dict[str, list[Output]] = defaultdict(list)
        """Everything produced, by topic, in order."""
        specs = {spec.topic: spec for spec in agents}
        self._partitions = partitions
        self.tasks: dict[TaskId, Task] = {}
        self._stores: dict[TaskId, MemoryStore] = {}
        for spec in specs.values():
            for partition in range(partitions[spec.topic]):
                self._start(TaskId(spec.topic, partition), spec)
        config = cast("EngineConfig", _Bounds())
        metrics = EngineMetrics(CollectorRegistry())
        self._filling = Filling(config, specs, self.tasks, self.clock, metrics)
        self._offsets: dict[TaskId, int] = defaultdict(int)

    def _start(self, task_id: TaskId, spec: AgentSpec) -> None:
        store = self._stores[task_id] = MemoryStore()
        kept = cast("Store", store) if spec.tables else None
        task = Task(task_id, spec, kept, self._partitions)
        task.start(0, Lanes(), Counts())
        self.tasks[task_id] = task

    def feed(
        self,
        topic: str,
        values: Sequence[bytes | None],
        *,
        partition: int = 0,
        keys: Sequence[bytes | None] | None = None,
        headers: Headers = (),
    ) -> None:
        """Append records to a partition, ingested now, and run every agent they reach."""
        if not values:
            return
        task_id, count = TaskId(topic, partition), len(values)
        first = self._offsets[task_id]
        self._offsets[task_id] = first + count
        self.run(
            RecordBatch(
                topic,
                partition,
                range(first, first + count),
                [self.clock.now_ms()] * count,
                list(keys) if keys is not None else [None] * count,
                list(values),
                [headers] * count,
            )
        )

    def run(self, batch: RecordBatch) -> None:
        """Run every agent that a batch reaches; a halted partition takes nothing more.

        Where its agent tries again, the clock moves on by what it waits.
        """
        task = self.tasks[TaskId(batch.topic, batch.partition)]
        attempts = Attempts(task.spec.on_failure)
        while task.state is TaskState.RUNNING:
            try:
                self._attempt(task, batch, attempts.attempt)
                break
            except StepFailedError as exc:
                wait_s = attempts.failed(self.clock.now_ms())
                if wait_s is None:
                    task.halt(halted_by(exc))
                else:
                    self.clock.advance(round(wait_s * 1000))
        self._commit()

    def _attempt(self, task: Task, batch: RecordBatch, attempt: Attempt) -> None:
        now_ms, step = self.clock.now_ms(), task.spec.step
        for part, effects in run_step(step, batch, task, now_ms, RECORD_BYTES_MAX, attempt):
            self._filling.apply(task, effects, now_ms, part)

    def advance(self, ms: int) -> None:
        """Let time pass, then run every agent's tick once."""
        self.clock.advance(ms)
        for task in self.tasks.values():
            task.reading = Reading(0, self.clock.now_ms())
            self._tick(task)
        self._commit()

    def tick(self, task_id: TaskId) -> None:
        """Run one agent's tick for one partition."""
        self._tick(self.tasks[task_id])
        self._commit()

    def _tick(self, task: Task) -> None:
        if task.state is TaskState.RUNNING:
            self._filling.on_tick(task, self.clock.now_ms())

    def _commit(self) -> None:
        self._commit_once()
        while any(task.time_due for task in self.tasks.values()):
            self._commit_once()

    def _commit_once(self) -> None:
        for task in self.tasks.values():
            self._filling.on_time(task, self.clock.now_ms())
        epoch = self._filling.take(None)
        if epoch is None:
            return
        epoch.work_out()
        for task_id, commit in epoch.tasks.items():
            task = self.tasks[task_id]
            for spec, changes in commit.changes.items():
                encode = spec.aggregate.encode
                raw = {k: None if s is None else encode(s) for k, s in changes.items()}
                self._stores[task_id].write(spec.identity, raw)
                task.layers[spec.name].settle(raw)
            task.committed_position, task.committed_counts = commit.position, commit.counts
        for output in _produced(epoch, self._partitions):
            self.topics[output.topic].append(output)
            if any(task.topic == output.topic for task in self.tasks):
                self._deliver(output)

    def _deliver(self, output: Output) -> None:
        partition = output.partition
        if partition is None:
            partition = partition_for(output.key or b"", self._partitions[output.topic])
        self.feed(
            output.topic,
            [output.value],
            partition=partition,
            keys=[output.key],
            headers=output.headers,
        )

    def rows(self, topic: str, table: str) -> dict[bytes, object]:
        """Committed rows of a table over all partitions of its agent's topic."""
        found: dict[bytes, object] = {}
        for task_id, task in self.tasks.items():
            if task_id.topic == topic:
                found.update(task.table(table).range(b"", None, limit=1_000_000))
        return found


class _Bounds:
    """The part of :class:`EngineConfig` that filling an epoch looks at."""

    record_bytes_max = RECORD_BYTES_MAX


def _produced(epoch: Epoch, partitions: Mapping[str, int]) -> Iterator[Output]:
    yield from epoch.outputs
    for topic, partition, value in chunks(epoch, partitions):
        yield Output(topic, None, value, (), partition)
