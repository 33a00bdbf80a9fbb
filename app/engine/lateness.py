"""How late a worker's work is: what waits, at the pace of the last epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from app.engine.clock import Clock
from app.engine.delivery import Reach
from app.engine.epoch import Epoch, TaskId
from app.engine.pacing import behind_s
from app.engine.task import Task
from app.engine.watch import task_lag


class Lateness:
    """Looked at once an epoch. ``seconds``: what the work that waits will take."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_at = clock.monotonic()
        self.seconds = 0.0

    def look(self, epoch: Epoch, tasks: Mapping[TaskId, Task], reach: Reach | None) -> None:
        """Take note of what an epoch did, before it is settled, and of what still waits."""
        now_s = self._clock.monotonic()
        elapsed_s, self._looked_at = now_s - self._looked_at, now_s
        taken: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        for task_id, commit in epoch.tasks.items():
            if moved := commit.position - tasks[task_id].committed_position:
                taken[task_id.topic] += moved
        for task_id, task in tasks.items():
            if task_id.topic in taken:
                waiting[task_id.topic] += task_lag(task, reach) or 0
        self.seconds = behind_s(elapsed_s, taken, waiting)
