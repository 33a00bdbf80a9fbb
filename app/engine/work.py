"""Runs steps over what was delivered and ticks over what there is, each in its turn of the loop."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Protocol

from app.engine.attempts import Attempts, halted_by
from app.engine.batch import RecordBatch
from app.engine.clock import Clock
from app.engine.commits import Commits, Failure, as_failure
from app.engine.delivery import Delivery
from app.engine.epoch import Epoch, GatherError, TaskId
from app.engine.filling import Filling
from app.engine.pacing import KEEPS_UP_S, FoldSize, turn_s
from app.engine.steps import Attempt, StepFailedError, run_step, sliced, trimmed
from app.engine.task import Task, TaskState
from app.engine.turns import Turns

logger = logging.getLogger(__name__)


class WorkOwner(Protocol):
    """Whose work it is: the engine."""

    token: int
    commits: Commits

    @property
    def behind_s(self) -> float:
        """Seconds that the work which waits will take."""
        ...

    def commit_failed(self, error: Failure) -> None:
        """Nothing uncommitted may be kept."""
        ...


class Work:
    """Steps and ticks of one worker's tasks, applied to its open epoch."""

    def __init__(
        self,
        owner: WorkOwner,
        tasks: Mapping[TaskId, Task],
        filling: Filling,
        clock: Clock,
        record_bytes_max: int,
    ) -> None:
        self._owner = owner
        self._tasks = tasks
        self._filling = filling
        self._clock = clock
        self._record_bytes_max = record_bytes_max
        self._turns = Turns()
        self._fold_sizes: defaultdict[str, FoldSize] = defaultdict(FoldSize)
        self._asked_at_s = -inf

    def asked(self) -> None:
        """A query came."""
        self._asked_at_s = self._clock.monotonic()

    async def process(self, delivery: Delivery) -> None:
        """Apply a batch in slices, each once there is room in the open epoch."""
        batch, start = delivery.batch, 0
        record_bytes = delivery.record_bytes
        while start < len(batch):
            await self._turns.come()
            if self._filling.full:
                self._owner.commits.hurry()
                await self._filling.room()
                continue
            task = self._running(delivery)
            if task is None:
                return
            longest_s = self._turn_s()
            turn = max(1, task.turn_size.size(longest_s) // record_bytes)
            stop = min(len(batch), start + min(turn, task.batch_size.records))
            rest = trimmed(sliced(batch, start, stop), task.position)
            if rest is not None:
                await self._run(task, rest, delivery)
                await self._fold(delivery)
            start = stop

    def _turn_s(self) -> float:
        return turn_s(self._owner.behind_s, self._clock.monotonic() - self._asked_at_s)

    async def _fold(self, delivery: Delivery) -> None:
        """Make partials of what its topic has gathered, if that pays."""
        topic = delivery.batch.topic
        if not self._fold_due(topic) or delivery.token != self._owner.token:
            return
        await self._turns.come()
        if not self._fold_due(topic) or delivery.token != self._owner.token:
            return
        records, began = self._filling.gathered(topic), self._clock.monotonic()
        try:
            made = self._filling.fold(topic)
        except GatherError as exc:
            self._owner.commit_failed(as_failure(exc))
            return
        self._fold_sizes[topic].observe(records, made, self._clock.monotonic() - began)

    def made(self, epoch: Epoch) -> None:
        """An epoch is committed: take note of how many partials there were of a topic."""
        made: Counter[str] = Counter()
        for rekeyed in epoch.rekeyed:
            made[rekeyed.source] += len(rekeyed.values)
        for topic, partials in made.items():
            self._fold_sizes[topic].partials = partials

    def _fold_due(self, topic: str) -> bool:
        """Work that is not late has short epochs, whose thread makes the partials."""
        gathered = self._filling.gathered(topic)
        late = gathered > 0 and self._owner.behind_s > KEEPS_UP_S
        return late and self._fold_sizes[topic].due(gathered, self._turn_s())

    def _running(self, delivery: Delivery) -> Task | None:
        task = self._tasks.get(TaskId(delivery.batch.topic, delivery.batch.partition))
        if task is None or delivery.token != self._owner.token:
            return None
        return task if task.state is TaskState.RUNNING else None

    async def _run(self, task: Task, batch: RecordBatch, delivery: Delivery) -> None:
        """Run the step; when it fails, do as the agent's failure policy says."""
        attempts = Attempts(task.spec.on_failure)
        while True:
            attempt = replace(attempts.attempt, gathers=not task.isolating)
            try:
                return self._run_once(task, batch, delivery, attempt)
            except StepFailedError as exc:
                wait_s = attempts.failed(self._clock.now_ms())
                if wait_s is None:
                    logger.exception("%s stops", task.id)
                    return task.halt(halted_by(exc))
                logger.warning("%s; again in %.0f s", exc, wait_s)
                await asyncio.sleep(wait_s)
                if self._running(delivery) is not task:
                    return None

    def _run_once(
        self, task: Task, batch: RecordBatch, delivery: Delivery, attempt: Attempt
    ) -> None:
        now_ms, began = self._clock.now_ms(), self._clock.monotonic()
        if task.dirty_since_ms == 0:
            task.dirty_since_ms = now_ms
        most = self._record_bytes_max
        try:
            for part, effects in run_step(task.spec.step, batch, task, now_ms, most, attempt):
                self._filling.apply(task, effects, now_ms, part)
                self._owner.commits.work.set()
        except StepFailedError:
            raise
        except Exception as exc:  # noqa: BLE001 - half applied effects may not be kept
            self._owner.commit_failed(as_failure(exc))
        took_s = self._clock.monotonic() - began
        task.batch_size.observe(len(batch), took_s)
        task.turn_size.observe(len(batch) * delivery.record_bytes, took_s)

    async def tick(self) -> None:
        """Wall-clock work of every running task; call once a second."""
        for task in tuple(self._tasks.values()):
            if task.spec.tick is not None:
                await self._in_turn(task, self._filling.on_tick)
        if self._filling.waiting or any(task.time_due for task in self._tasks.values()):
            self._owner.commits.work.set()

    async def on_time(self) -> None:
        """Event-time ticks that are due; call before an epoch is taken."""
        for task in tuple(self._tasks.values()):
            if task.time_due:
                await self._in_turn(task, self._filling.on_time)

    async def _in_turn(self, task: Task, tick: Callable[[Task, int], bool]) -> None:
        await self._turns.come()
        if task.state is not TaskState.RUNNING:
            return
        try:
            if tick(task, self._clock.now_ms()):
                self._owner.commits.work.set()
        except Exception as exc:  # noqa: BLE001 - half applied effects may not be kept
            self._owner.commit_failed(as_failure(exc))
