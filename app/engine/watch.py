"""Looks at every partition once a second: lag, state size, liveness, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping

from app.engine.clock import Clock
from app.engine.delivery import Reach
from app.engine.epoch import TaskId
from app.engine.liveness import Liveness, Sight, lag
from app.engine.metrics import EngineMetrics
from app.engine.restore import Progress
from app.engine.task import Task, TaskState

STALL_S = 30.0
"""Twice the longest pause a healthy partition makes: a rebalance after a kill."""
STATE_SIZE_EVERY = 10


class Watch:
    """Liveness of one worker."""

    def __init__(self, clock: Clock, metrics: EngineMetrics, stall_s: float = STALL_S) -> None:
        self._clock = clock
        self._metrics = metrics
        self._liveness = Liveness(stall_s)
        self._sights: dict[TaskId, Sight] = {}
        self._looks = 0

    def look(self, tasks: Mapping[TaskId, Task], reach: Reach | None, restore: Progress) -> None:
        """Take note of every partition owned now; metrics of others vanish."""
        gone = self._sights.keys() - tasks.keys()
        for task in gone:
            self._metrics.forget(task.topic, task.partition)
        self._sights = {task_id: _sight(task, reach, restore) for task_id, task in tasks.items()}
        for task_id, sight in self._sights.items():
            if sight.lag is not None:
                self._metrics.lag.labels(task_id.topic, str(task_id.partition)).set(sight.lag)
        if self._looks % STATE_SIZE_EVERY == 0:
            self._measure(tasks)
        self._looks += 1
        self._liveness.observe(self._sights, self._clock.monotonic())

    def _measure(self, tasks: Mapping[TaskId, Task]) -> None:
        sizes: dict[str, int] = {}
        for task in tasks.values():
            if task.store is not None and task.state is TaskState.RUNNING:
                sizes[task.id.topic] = sizes.get(task.id.topic, 0) + task.store.size_bytes()
        for topic, size in sizes.items():
            self._metrics.state_bytes.labels(topic).set(size)

    def lag(self, task: TaskId) -> int | None:
        """Records behind at the last look; None while not known."""
        sight = self._sights.get(task)
        return None if sight is None else sight.lag

    def stalled(self) -> list[str]:
        """Partitions that should move and do not, each with the reason."""
        return self._liveness.stalled(self._sights, self._clock.monotonic())


def _sight(task: Task, reach: Reach | None, restore: Progress) -> Sight:
    if task.state is not TaskState.RUNNING:
        waiting_for = task.halted_by or restore.waiting_for or "the broker"
        return Sight(restore.records, None, waiting_for)
    end = None if reach is None else reach.end(task.id)
    if reach is None or end is None:
        # Nothing was fetched yet: an empty partition answers within the fetch wait.
        return Sight(task.position, None)
    fetched = reach.fetched(task.id)
    delivered = reach.delivered(task.id)
    behind = lag(task.position, delivered, task.position if fetched is None else fetched, end)
    return Sight(task.position, behind)
