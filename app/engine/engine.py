"""The engine of one worker: takes batches, applies what steps decide, keeps epochs whole.

Everything here runs on the event loop; what blocks is in :mod:`app.engine.commits` and
:mod:`app.engine.starts`. ``token`` names a span of undisturbed delivery: it changes whenever
positions are given anew, and batches fetched under an older one are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from app.engine.batch import RecordBatch
from app.engine.chunks import lane_marks
from app.engine.clock import Clock
from app.engine.commits import Commits, as_failure
from app.engine.delivery import Delivery, Flow
from app.engine.effects import Effects
from app.engine.epoch import Epoch, OpenEpoch, Partials, TaskId
from app.engine.lanes import Lanes
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.query import CommitListener
from app.engine.side_outputs import dead_letter, late_record
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.standby import Standbys
from app.engine.starts import Starter
from app.engine.steps import StepContractError, run_step, trimmed
from app.engine.store import Store, StoreError, StoreMemory
from app.engine.task import Task, TaskState
from app.engine.transaction import CommitFailedError, Probe, Writer
from app.engine.watch import Watch

logger = logging.getLogger(__name__)

OPEN_SIZE_MAX = 50_000
"""Outputs, partials and changed rows an open epoch may hold before batches wait."""
OPEN_BYTES_MAX = 32 << 20
BROADCAST_S = 1.0
REGISTER_AGAIN_S = 1.0


class Engine:
    """All tasks of one worker."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Iterable[AgentSpec],
        writer: Writer,
        clock: Clock,
        metrics: EngineMetrics,
        probe: Probe,
    ) -> None:
        self.config = config
        self.specs = {spec.topic: spec for spec in specs}
        self.tasks: dict[TaskId, Task] = {}
        self.token = 0
        self.membership: Membership | None = None
        self.flow: Flow | None = None
        self.listeners: dict[tuple[str, str], list[CommitListener]] = defaultdict(list)
        self.starter = Starter(config, clock)
        self.commits = Commits(self, writer, clock, metrics, config.commit_interval_s, probe)
        self.watch = Watch(clock, metrics)
        self._clock = clock
        self._metrics = metrics
        self._memory = StoreMemory(config.state_memory_bytes)
        self.standbys = Standbys(config, self.specs, self._store, clock, metrics)
        self._open = OpenEpoch()
        self._room = asyncio.Event()
        self._epochs = 0
        self._broadcast_at: dict[TaskId, float] = {}
        self._starting: asyncio.Task[None] | None = None

    # -- batches ---------------------------------------------------------------------------

    async def process(self, delivery: Delivery) -> None:
        """Apply a batch, once there is room in the open epoch."""
        while self._full():
            self._room.clear()
            await self._room.wait()
        batch = delivery.batch
        task = self.tasks.get(TaskId(batch.topic, batch.partition))
        if delivery.token != self.token or task is None or task.state is not TaskState.RUNNING:
            return
        rest = trimmed(batch, task.position)
        if rest is None:
            return
        now_ms = self._clock.now_ms()
        if task.dirty_since_ms == 0:
            task.dirty_since_ms = now_ms
        try:
            for part, effects in run_step(task.spec.step, rest, task, now_ms):
                self._apply(task, effects, now_ms, part)
        except Exception as exc:  # noqa: BLE001 - half applied effects may not be kept
            self.commit_failed(as_failure(exc))

    def tick(self) -> None:
        """Wall-clock work of every running task; call once a second."""
        now_ms = self._clock.now_ms()
        try:
            for task in self.tasks.values():
                if task.state is TaskState.RUNNING and task.spec.tick is not None:
                    effects = task.spec.tick(task.id.partition, task, now_ms)
                    if effects != Effects():
                        self._apply(task, effects, now_ms, None)
        except Exception as exc:  # noqa: BLE001 - half applied effects may not be kept
            self.commit_failed(as_failure(exc))
        if self._open.marks:
            self.commits.work.set()

    def _apply(self, task: Task, effects: Effects, now_ms: int, batch: RecordBatch | None) -> None:
        held, before = self._open, task.lanes
        if any(r not in task.spec.repartitions for r, _ in effects.partials):
            raise StepContractError(f"{task.id}: partials for a repartition it does not declare")
        task.apply(effects)
        for repartition, values in effects.partials:
            held.merge_partials(repartition, task.id, values)
        for output in effects.outputs:
            held.emit(output)
        if effects.lanes is not None and task.spec.repartitions:
            held.mark(task.id, lane_marks(before, effects.lanes))
        if batch is not None:
            spec, most = task.spec, self.config.record_bytes_max
            for reject in effects.rejects:
                held.emit(dead_letter(spec.dead_letter_topic, batch, reject, now_ms, most))
            for late in effects.late:
                held.emit(late_record(spec.late_topic, batch, late, most))
            task.position = batch.next_offset
            held.events += len(batch)
            self._count(task.id.topic, effects)
        held.touched.add(task.id)
        self.commits.work.set()

    def _count(self, topic: str, effects: Effects) -> None:
        records = self._metrics.records
        for outcome, number in (
            ("applied", effects.applied),
            ("duplicate", effects.duplicates),
            ("rejected", len(effects.rejects)),
            ("late", len(effects.late)),
        ):
            if number:
                records.labels(topic, outcome).inc(number)
        for late in effects.late:
            self._metrics.late.labels(late.table).inc()

    def _full(self) -> bool:
        held = self._open
        return (
            held.output_bytes > OPEN_BYTES_MAX
            or held.size() + sum(self.tasks[t].dirty for t in held.touched) > OPEN_SIZE_MAX
        )

    # -- epochs ----------------------------------------------------------------------------

    def take(self) -> Epoch | None:
        """Freeze the open epoch."""
        held = self._open
        if not held.touched and not held.marks:
            return None
        partials = self._take_partials(held)
        if not held.touched and not partials:
            return None
        # Lanes alone move no offset: their task rides along so that the commit is fenced.
        held.touched.update(part.task for part in partials)
        self._epochs += 1
        epoch = Epoch(
            self._epochs,
            self.membership,
            {task: self.tasks[task].take() for task in held.touched},
            held.outputs,
            partials,
            held.events,
        )
        self._open = OpenEpoch(marks=held.marks)
        self._room.set()
        return epoch

    def _take_partials(self, held: OpenEpoch) -> list[Partials]:
        """Partials with the marks of their source; marks alone at most once a second."""
        now = self._clock.monotonic()
        due = {t for t in held.marks if now - self._broadcast_at.get(t, 0.0) >= BROADCAST_S}
        taken = []
        for task in due | {task for task, _ in held.partials}:
            marks = dict(held.marks.get(task, {}))
            for repartition in self.specs[task.topic].repartitions:
                values = held.partials.get((task, repartition.topic), {})
                if values or task in due:
                    taken.append(Partials(repartition, task, values, marks, task in due))
        for task in due:
            self._broadcast_at[task] = now
            del held.marks[task]
        return taken

    def stores(self) -> Mapping[TaskId, Store]:
        """Stores of the tasks."""
        return {task.id: task.store for task in self.tasks.values() if task.store is not None}

    def settle(self, epoch: Epoch) -> None:
        """The epoch is committed and stored: its rows are what queries see."""
        now_ms = self._clock.now_ms()
        for task_id, commit in epoch.tasks.items():
            task = self.tasks[task_id]
            task.committed_position = commit.position
            task.committed_counts = commit.counts
            task.dirty_since_ms = 0 if task.position == commit.position else now_ms
            for name, layers in task.layers.items():
                layers.settle()
                rows = commit.changes.get(layers.spec, {})
                for listener in self.listeners.get((task_id.topic, name), ()):
                    try:
                        listener(task_id.partition, rows)
                    except Exception:
                        logger.exception("a listener of %s failed", name)

    def commit_failed(self, error: CommitFailedError | StoreError) -> None:
        """Forget everything uncommitted and begin again where the broker says."""
        lost = isinstance(error, CommitFailedError) and error.membership_lost
        logger.warning(
            "epoch not committed: %s; %s",
            error,
            "waiting for the rebalance" if lost else "going on from the committed position",
        )
        self._suspend()
        self._begin(self.config.session_timeout_ms / 1000 if lost else 0.0)

    # -- partitions ------------------------------------------------------------------------

    async def revoke(self) -> None:
        """Hand over: commit what is done, then forget every partition."""
        self.token += 1
        await self._cancel_start()
        await self.commits.commit()
        await self._cancel_start()
        self._suspend()
        for task in self.tasks.values():
            task.close()
        self.tasks.clear()
        self.membership = None

    async def assign(
        self,
        task_ids: Iterable[TaskId],
        membership: Membership,
        standby_ids: Iterable[TaskId] = (),
    ) -> None:
        """Own these partitions from now on; they run once restored. Revoke comes first."""
        await self.revoke()
        await self.standbys.keep(standby_ids)
        self.membership = membership
        self._metrics.rebalances.inc()
        for task_id in task_ids:
            spec = self.specs[task_id.topic]
            self.tasks[task_id] = Task(task_id, spec, self._store(task_id, spec))
        self._begin(0.0)

    def _store(self, task_id: TaskId, spec: AgentSpec) -> Store | None:
        if not spec.tables:
            return None
        path = self.config.data_dir / "state" / task_id.topic / str(task_id.partition)
        return Store.open(path, (t.identity for t in spec.tables), self._memory)

    def _suspend(self) -> None:
        self.token += 1
        if self.flow is not None:
            self.flow.hold()
        self._open = OpenEpoch()
        self._room.set()
        for task in self.tasks.values():
            task.stop()

    def _begin(self, after_s: float) -> None:
        if self._starting is not None:
            self._starting.cancel()
        self._starting = asyncio.create_task(self._start_at_last(after_s))

    async def _start_at_last(self, after_s: float) -> None:
        while True:
            try:
                return await self._start(after_s)
            except Exception:  # tasks that nobody starts again would restore for ever
                logger.exception("partitions could not be started, trying again")
                after_s = REGISTER_AGAIN_S

    async def _start(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        began = self._clock.monotonic()
        await self._register()
        tasks = list(self.tasks.values())
        starts = await self.starter.starts(tasks)
        if starts is None:
            return
        for task in tasks:
            start = starts[task.id]
            task.start(start.position, start.lanes, start.counts)
            if task.spec.repartitions:
                self._open.mark(task.id, lane_marks(Lanes(), start.lanes))
        self._metrics.restore_seconds.observe(self._clock.monotonic() - began)
        if self.flow is not None:
            await self.flow.release({task: start.position for task, start in starts.items()})

    async def _register(self) -> None:
        while True:
            try:
                return await self.commits.open()
            except CommitFailedError as exc:
                logger.warning("cannot commit yet, trying again: %s", exc)
                await asyncio.sleep(REGISTER_AGAIN_S)

    async def _cancel_start(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and not starting.done():
            self.starter.cancel()
            starting.cancel()
            await asyncio.wait([starting])
            await self.starter.idle()

    async def run(self) -> None:
        """Commit and tick for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.commits.run())
            group.create_task(self._ticks())
            group.create_task(self.standbys.run())

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.tick()
            self.watch.look(self.tasks, self.flow, self.starter.progress)

    async def close(self) -> None:
        """Commit what is done and release everything."""
        await self.revoke()
        await self.standbys.close()
        self.starter.close()
        self.commits.close()
