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

from app.engine.clock import Clock, SteadyClock
from app.engine.commits import Commits, Failure
from app.engine.delivery import Delivery, Flow
from app.engine.epoch import Epoch, GatherError, TaskId
from app.engine.filling import Filling
from app.engine.lateness import Lateness
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.opening import Opening
from app.engine.query import CommitListener
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.standby import Standbys
from app.engine.starts import Starter
from app.engine.store import Store
from app.engine.stores import Stores
from app.engine.task import Task
from app.engine.transaction import CommitFailedError, Probe, Writer, Written
from app.engine.watch import Watch
from app.engine.work import Work

logger = logging.getLogger(__name__)

REGISTER_AGAIN_S = 1.0
FAILURE_WAITS_S = (0.0, 0.1, 0.5, 2.0, 5.0)


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
        self.clock = clock = SteadyClock(clock)
        self.starter = Starter(config, clock)
        self.commits = Commits(self, writer, clock, metrics, config.commit_interval_s, probe)
        self.watch = Watch(clock, metrics)
        self._metrics = metrics
        self._stores = Stores(config)
        self._opening = Opening(config, self.specs, self._stores, self.tasks)
        self.standbys = Standbys(config, self.specs, self._stores, clock, metrics)
        self._filling = Filling(config, self.specs, self.tasks, clock, metrics)
        self._lateness = Lateness(clock)
        self._work = Work(self, self.tasks, self._filling, clock, config.record_bytes_max)
        self._failures = 0
        self._starting: asyncio.Task[None] | None = None
        self._closed = False

    # -- batches ---------------------------------------------------------------------------

    async def process(self, delivery: Delivery) -> None:
        """Apply a batch; see :meth:`Work.process`."""
        await self._work.process(delivery)

    def asked(self) -> None:
        """A query came: steps take short turns for a while, however late they are."""
        self._work.asked()

    async def tick(self) -> None:
        """Wall-clock work; call once a second."""
        await self._work.tick()

    # -- epochs ----------------------------------------------------------------------------

    async def on_time(self) -> None:
        """Give event time its say in the open epoch."""
        await self._work.on_time()

    def take(self) -> Epoch | None:
        """Freeze the open epoch."""
        epoch = self._filling.take(self.membership)
        if epoch is not None:
            self._lateness.look(epoch, self.tasks, self.flow)
        if any(task.time_due for task in self.tasks.values()):
            self.commits.work.set()
        return epoch

    @property
    def behind_s(self) -> float:
        """Seconds that the work which waits will take, at the pace of the last epoch."""
        return self._lateness.seconds

    def stores(self) -> Mapping[TaskId, Store]:
        """Stores of the tasks."""
        return {task.id: task.store for task in self.tasks.values() if task.store is not None}

    def settle(self, epoch: Epoch, written: Written) -> None:
        """The epoch is committed and stored: its rows are what queries see."""
        self._failures = 0
        self.watch.epoch_ended()
        self._work.made(epoch)
        for task_id, commit in epoch.tasks.items():
            task = self.tasks[task_id]
            task.committed_position = commit.position
            task.committed_counts = commit.counts
            task.in_flight_since_ms = 0
            for name, layers in task.layers.items():
                layers.settle(written.rows.get(task_id, {}).get(layers.spec.identity, {}))
                rows = commit.changes.get(layers.spec, {})
                for listener in self.listeners.get((task_id.topic, name), ()):
                    try:
                        listener(task_id.partition, rows)
                    except Exception:
                        logger.exception("a listener of %s failed", name)

    def commit_failed(self, error: Failure) -> None:
        """Forget everything uncommitted and begin again where the broker says."""
        if isinstance(error, GatherError):
            # Batch by batch from now on, so that the record at fault is found.
            for task in self.tasks.values():
                task.isolating |= task.id.topic == error.topic
        lost = isinstance(error, CommitFailedError) and error.membership_lost
        logger.warning(
            "epoch not committed: %s; %s",
            error,
            "waiting for the rebalance" if lost else "going on from the committed position",
        )
        self.watch.epoch_ended(str(error))
        self._suspend()
        # The first failure is put right at once; what fails again and again is given time.
        backoff_s = FAILURE_WAITS_S[min(self._failures, len(FAILURE_WAITS_S) - 1)]
        self._failures += 1
        self._begin(self.config.session_timeout_ms / 1000 if lost else backoff_s)

    # -- partitions ------------------------------------------------------------------------

    async def revoke(self) -> None:
        """Hand over: commit what is done, then forget every partition.

        What is not committed within the drain timeout is given up: the group waits.
        """
        self.token += 1
        now_s = asyncio.get_running_loop().time()
        deadline_s = now_s + self.config.drain_timeout_ms / 1000
        await self._cancel_start(deadline_s)
        await self.commits.drain(deadline_s)
        await self._cancel_start(deadline_s)
        self._suspend()
        for task in self.tasks.values():
            store, task.store = task.store, None
            if store is not None:
                self._stores.give(task.id, store)
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
        if self._closed:
            return  # asked to stop meanwhile: what was assigned now goes to others
        self.membership = membership
        self._metrics.rebalances.inc()
        for task_id in task_ids:
            self._opening.own(task_id)
        self._begin(0.0)
        await asyncio.to_thread(self._stores.close_idle, frozenset(standby_ids))

    async def rebuild(self, topic: str) -> int:
        """Begin to rebuild the stores of the topic's partitions here from their changelog.

        They are set aside. What is not committed is forgotten and read again, as after an epoch
        that failed, so nothing is lost or counts twice; every partition of this worker stands
        still until it is restored. Returns how many are rebuilt, 0 where none is owned.
        """
        async with self.commits.at_rest():
            mine = [task.store for task in self.tasks.values() if task.id.topic == topic]
            stores = [store for store in mine if store is not None]
            for store in stores:
                store.damaged = True
            if stores:
                self._suspend()
                self._begin(0.0)
        return len(stores)

    def _suspend(self) -> None:
        self.token += 1
        if self.flow is not None:
            self.flow.hold()
        self._filling.drop()
        for task in self.tasks.values():
            task.stop()

    def _begin(self, after_s: float) -> None:
        if self._closed:
            return
        if self._starting is not None:
            self._starting.cancel()
        self._starting = asyncio.create_task(self._start_at_last(after_s))

    async def _start_at_last(self, after_s: float) -> None:
        while True:
            try:
                await self._start(after_s)
                if not await self._opening.opened():
                    return
                async with self.commits.at_rest():
                    self._suspend()
                after_s = 0.0
            except Exception:  # tasks that nobody starts again would restore for ever
                logger.exception("partitions could not be started, trying again")
                after_s = REGISTER_AGAIN_S

    async def _start(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        began = self.clock.monotonic()
        await self._register()
        tasks = self._opening.ready()
        starts = await self.starter.starts(tasks)
        if starts is None:
            return
        for task in tasks:
            start = starts[task.id]
            task.start(start.position, start.lanes, start.counts, start.since, start.anew)
            self._filling.greet(task)
        self._metrics.restore_seconds.observe(self.clock.monotonic() - began)
        if self.flow is not None:
            await self.flow.release({task: start.position for task, start in starts.items()})

    async def _register(self) -> None:
        while True:
            try:
                return await self.commits.open()
            except CommitFailedError as exc:
                logger.warning("cannot commit yet, trying again: %s", exc)
                await asyncio.sleep(REGISTER_AGAIN_S)

    async def _cancel_start(self, deadline_s: float) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and not starting.done():
            self.starter.cancel()
            starting.cancel()
            await asyncio.wait([starting])
            await self.starter.idle(deadline_s)

    async def run(self) -> None:
        """Commit and tick for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.commits.run())
            group.create_task(self._ticks())
            group.create_task(self.standbys.run())

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.tick()
            try:
                self.watch.look(self.tasks, self.flow, self.starter.progress, self.membership)
            except Exception:  # what only watches may not end what works
                logger.exception("could not look at the partitions")

    async def close(self) -> None:
        """Commit what is done and release everything."""
        self._closed = True
        await self.revoke()
        await self.standbys.close()
        await asyncio.to_thread(self._stores.close_idle)
        self.starter.close()
        await asyncio.to_thread(self.commits.close)
