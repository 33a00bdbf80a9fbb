"""Looks at every partition once a second: lag, up to when it is read, liveness, their metrics."""

from __future__ import annotations

from collections.abc import Mapping

from app.engine.clock import Clock
from app.engine.delivery import Reach
from app.engine.epoch import TaskId
from app.engine.lanes import LIVE, NO_WATERMARK
from app.engine.liveness import Liveness, Sight, lag
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.progress import Progress, RestoreWatch
from app.engine.query import ConsumerRow
from app.engine.task import Task, TaskState

STALL_S = 30.0
"""Twice the longest pause a healthy partition makes: a rebalance after a kill."""
STATE_SIZE_EVERY = 10
NAMED_MAX = 5
"""Partitions that stand still named one by one: mostly all do, for one reason."""


class Watch:
    """Liveness of one worker."""

    def __init__(self, clock: Clock, metrics: EngineMetrics, stall_s: float = STALL_S) -> None:
        self._clock = clock
        self._metrics = metrics
        self._liveness = Liveness(stall_s)
        self._sights: dict[TaskId, Sight] = {}
        self._looks = 0
        self._failure = ""
        self._restore = RestoreWatch(clock)
        metrics.registry.register(self._restore)

    def look(
        self,
        tasks: Mapping[TaskId, Task],
        reach: Reach | None,
        restore: Progress,
        membership: Membership | None,
    ) -> None:
        """Take note of every partition owned now; metrics of others vanish.

        ``membership`` None: this worker is in no group at the moment.
        """
        self._restore.look(restore)
        for gone in self._sights.keys() - tasks.keys():
            self._metrics.forget(gone.topic, gone.partition)
        self._sights = {task_id: _sight(task, reach, restore) for task_id, task in tasks.items()}
        now_ms = self._clock.now_ms()
        for task in tasks.values():
            self._show(task, reach)
            if reach is not None and task.state is TaskState.RUNNING:
                end = reach.appended(task.id)
                task.reading = task.reading.looked(_read_to(task, reach), end, now_ms)
        if reach is not None:
            self._metrics.held_bytes.set(reach.held_bytes)
        self._looks += 1
        self._liveness.observe(self._sights, membership, self._clock.monotonic())

    def _show(self, task: Task, reach: Reach | None) -> None:
        row, metrics = consumer_row(task, reach), self._metrics
        measured = [
            (metrics.lag, row.lag),
            (metrics.position, row.position),
            (metrics.committed, row.committed_position),
            (metrics.paused, int(row.paused)),
            (metrics.watermark, row.watermark_ms),
        ]
        store = task.store if task.state is TaskState.RUNNING else None
        if store is not None and self._looks % STATE_SIZE_EVERY == 0:
            measured.append((metrics.state_bytes, store.size_bytes()))
        for gauge, value in measured:
            metrics.show(gauge, row.topic, row.partition, value)

    def lag(self, task: TaskId) -> int | None:
        """Records behind at the last look; None while not known."""
        sight = self._sights.get(task)
        return None if sight is None else sight.lag

    def epoch_ended(self, failure: str = "") -> None:
        """An epoch was committed, or was not and why: what stands still has that for a reason."""
        self._failure = failure

    def stalled(self) -> list[str]:
        """What should move and does not, each with the reason; no more than :data:`NAMED_MAX`."""
        found = self._liveness.stalled(self._sights, self._clock.monotonic())
        if len(found) > NAMED_MAX:
            found[NAMED_MAX:] = [f"and {len(found) - NAMED_MAX} more"]
        if found and self._failure:
            found.append(f"the last commit failed: {self._failure}")
        return found


def _sight(task: Task, reach: Reach | None, restore: Progress) -> Sight:
    if task.state not in (TaskState.RUNNING, TaskState.HALTED):
        awaited = task.shut and f"its store: {task.shut}"
        return Sight(None, restore.passed, None, 0, awaited or restore.waiting_for or "the broker")
    end = None if reach is None else reach.appended(task.id)
    return Sight(
        task.committed_position,
        0,
        task_lag(task, reach),
        task.position - task.committed_position,
        task.halted_by,
        None if end is None else end.answer,
    )


def _read_to(task: Task, reach: Reach) -> int:
    """Offset before which everything was worked on; behind markers that no record follows."""
    fetched = reach.fetched(task.id)
    done = task.position >= reach.delivered(task.id)
    return task.position if fetched is None or not done else max(task.position, fetched)


def task_lag(task: Task, reach: Reach | None) -> int | None:
    """Records between what is processed and the end of the log; None while that is not known."""
    end = None if reach is None else reach.end(task.id)
    if reach is None or end is None or task.state not in (TaskState.RUNNING, TaskState.HALTED):
        # Nothing was fetched yet: an empty partition answers within the fetch wait.
        return None
    fetched = reach.fetched(task.id)
    delivered = reach.delivered(task.id)
    return lag(task.position, delivered, task.position if fetched is None else fetched, end)


def consumer_row(task: Task, reach: Reach | None) -> ConsumerRow:
    """A partition as operators see it."""
    started = task.state in (TaskState.RUNNING, TaskState.HALTED)
    watermark_ms = task.lanes.watermark(LIVE)
    return ConsumerRow(
        task.id.topic,
        task.id.partition,
        task.state.value,
        task.position if started else None,
        task.committed_position if started else None,
        None if reach is None else reach.end(task.id),
        task_lag(task, reach),
        task.batch_size.records,
        reach is not None and reach.paused(task.id),
        watermark_ms if started and watermark_ms != NO_WATERMARK else None,
    )
