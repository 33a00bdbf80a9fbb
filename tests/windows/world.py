"""Workers without a broker that fail, restart and hand over partitions, over one log of records.

As :class:`app.engine.driver.Driver`, but nothing happens by itself: records wait until they
are pumped, an epoch is open until it is committed, and what was not committed is forgotten
when a worker starts again. Stores, offsets and lanes outlive workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from prometheus_client import CollectorRegistry

from app.engine.batch import Headers, RecordBatch
from app.engine.counts import Counts
from app.engine.driver import RECORD_BYTES_MAX, ManualClock, MemoryStore
from app.engine.effects import Effects, Output
from app.engine.epoch import Epoch, TaskId
from app.engine.filling import Filling
from app.engine.lanes import Lanes
from app.engine.metrics import EngineMetrics
from app.engine.partitioner import partition_for
from app.engine.producing import chunks
from app.engine.reading import LogEnd
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.steps import run_step
from app.engine.store import Store
from app.engine.task import Task

LOOK_MS = 1_000
Committed = tuple[int, Lanes, Counts]


@dataclass
class Record:
    """A record of a partition and when it was taken in (epoch ms)."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    at_ms: int


class _Bounds:
    record_bytes_max = RECORD_BYTES_MAX


@dataclass
class Worker:
    """The tasks of one worker and its open epoch."""

    tasks: dict[TaskId, Task]
    filling: Filling


@dataclass
class World:
    """Every partition of some agents, on ``workers`` workers; see :meth:`spread`."""

    agents: Iterable[AgentSpec]
    partitions: Mapping[str, int]
    now_ms: int
    workers: int = 1
    log: dict[TaskId, list[Record]] = field(default_factory=lambda: defaultdict(list))
    """Records of the partitions that agents read."""
    topics: dict[str, list[Output]] = field(default_factory=lambda: defaultdict(list))
    """Everything committed, by topic, in order."""

    def __post_init__(self) -> None:
        self.clock = ManualClock(self.now_ms)
        self.specs = {spec.topic: spec for spec in self.agents}
        self.ids = [TaskId(t, n) for t in self.specs for n in range(self.partitions[t])]
        self.stores = {task: MemoryStore() for task in self.ids}
        self.committed: dict[TaskId, Committed] = {}
        self.running: list[Worker] = []
        self.spread(self.workers)

    # -- workers -----------------------------------------------------------------------------

    def spread(self, workers: int, turn: int = 0) -> None:
        """Every partition starts anew, on one of so many workers; nothing uncommitted is kept."""
        self.running = []
        for number in range(workers):
            mine = {task for n, task in enumerate(self.ids) if (n + turn) % workers == number}
            self.running.append(self._worker(mine))

    def replace(self, agents: Iterable[AgentSpec]) -> None:
        """As after a restart with another configuration."""
        self.specs = {spec.topic: spec for spec in agents}
        self.spread(len(self.running))

    def _worker(self, ids: set[TaskId]) -> Worker:
        tasks: dict[TaskId, Task] = {}
        metrics = EngineMetrics(CollectorRegistry())
        config = cast("EngineConfig", _Bounds())
        worker = Worker(tasks, Filling(config, self.specs, tasks, self.clock, metrics))
        for task_id in sorted(ids, key=str):
            spec = self.specs[task_id.topic]
            kept = cast("Store", self.stores[task_id]) if spec.tables else None
            task = tasks[task_id] = Task(task_id, spec, kept, self.partitions)
            task.start(*self.committed.get(task_id, (0, Lanes(), Counts())))
            worker.filling.greet(task)
        return worker

    def abort(self, number: int = 0) -> None:
        """An epoch of this worker fails: it begins again where the group stands."""
        number %= len(self.running)
        self.running[number] = self._worker(set(self.running[number].tasks))

    # -- records -----------------------------------------------------------------------------

    def put(
        self, topic: str, values: Sequence[bytes | None], partition: int, headers: Headers = ()
    ) -> None:
        """Append records to a partition, ingested now."""
        now_ms = self.clock.now_ms()
        self.log[TaskId(topic, partition)] += [Record(v, None, headers, now_ms) for v in values]

    def pump(self, task_id: TaskId, most: int = 1_000_000) -> bool:
        """Run the step over the next records of a partition; False when there are none."""
        worker = next(w for w in self.running if task_id in w.tasks)
        task = worker.tasks[task_id]
        records = self.log[task_id][task.position : task.position + most]
        if not records:
            return False
        batch = RecordBatch(
            task_id.topic,
            task_id.partition,
            range(task.position, task.position + len(records)),
            [each.at_ms for each in records],
            [each.key for each in records],
            [each.value for each in records],
            [each.headers for each in records],
        )
        now_ms = self.clock.now_ms()
        for part, effects in run_step(task.spec.step, batch, task, now_ms, RECORD_BYTES_MAX):
            worker.filling.apply(task, effects, now_ms, part)
        return True

    def tick(self, number: int = 0) -> None:
        """The wall-clock tick of a worker."""
        worker, now_ms = self.running[number % len(self.running)], self.clock.now_ms()
        for task in worker.tasks.values():
            if task.spec.tick is not None:
                effects = task.spec.tick(task.id.partition, task, now_ms)
                if effects != Effects():
                    worker.filling.apply(task, effects, now_ms, None)

    def commit(self, number: int = 0, *, fails: bool = False) -> bool:
        """Take an epoch and commit it, or lose it. Whether there was one."""
        number %= len(self.running)
        worker = self.running[number]
        for task in worker.tasks.values():
            worker.filling.on_time(task, self.clock.now_ms())
        epoch = worker.filling.take(None)
        if epoch is None:
            return False
        if fails:
            self.abort(number)
        else:
            self._settle(worker, epoch)
        return True

    def _settle(self, worker: Worker, epoch: Epoch) -> None:
        for task_id, commit in epoch.tasks.items():
            for spec, changes in commit.changes.items():
                encode = spec.aggregate.encode
                raw = {k: None if s is None else encode(s) for k, s in changes.items()}
                self.stores[task_id].write(spec.identity, raw)
                worker.tasks[task_id].layers[spec.name].settle(raw)
            self.committed[task_id] = (commit.position, commit.lanes, commit.counts)
        for output in epoch.outputs:
            self._write(output)
        epoch.work_out()
        for topic, partition, value in chunks(epoch, self.partitions):
            self._write(Output(topic, None, value, partition=partition))

    def _write(self, output: Output) -> None:
        self.topics[output.topic].append(output)
        if output.topic in self.specs:
            partition = output.partition
            if partition is None:
                partition = partition_for(output.key or b"", self.partitions[output.topic])
            record = Record(output.value, output.key, output.headers, self.clock.now_ms())
            self.log[TaskId(output.topic, partition)].append(record)

    # -- until nothing is left ------------------------------------------------------------------

    def settle(self) -> None:
        """Read and commit until nothing is left to do at this time."""
        busy = True
        while busy:
            busy = sum(self.pump(task) for task in self.ids) > 0
            for number, worker in enumerate(self.running):
                while self.commit(number) or any(t.time_due for t in worker.tasks.values()):
                    busy = True

    def listen(self, ms: int) -> None:
        """Let time pass, while every worker hears how far its partitions have grown."""
        while ms > 0:
            step_ms = min(ms, LOOK_MS if ms < 60_000 else 8 * LOOK_MS)
            self.clock.advance(step_ms)
            ms -= step_ms
            now_ms = self.clock.now_ms()
            for worker in self.running:
                for task_id, task in worker.tasks.items():
                    end = LogEnd(len(self.log[task_id]), now_ms)
                    task.reading = task.reading.looked(task.position, end, now_ms)

    def advance(self, ms: int) -> None:
        """Let time pass; then every worker ticks, and does what there is to do."""
        self.listen(ms)
        for number in range(len(self.running)):
            self.tick(number)
        self.settle()

    def rows(self, topic: str, table: str) -> dict[bytes, object]:
        """Committed rows of a table over all partitions of its agent's topic."""
        found: dict[bytes, object] = {}
        for worker in self.running:
            for task_id, task in worker.tasks.items():
                if task_id.topic == topic:
                    found.update(task.table(table).range(b"", None, limit=1_000_000))
        return found
