"""Tasks and their stores: a partition whose store cannot be opened waits for it, alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from app.engine.epoch import TaskId
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.store import StoreError
from app.engine.stores import Stores
from app.engine.task import Task

logger = logging.getLogger(__name__)

OPEN_AGAIN_S: Final = 10.0
"""When a store that could not be opened is tried again."""


class Opening:
    """Adds tasks to those of a worker. On the event loop.

    What keeps a store shut, another process or the disk, is no fault of its files and may end;
    other partitions have stores of their own.
    """

    def __init__(
        self,
        config: EngineConfig,
        specs: Mapping[str, AgentSpec],
        stores: Stores,
        tasks: dict[TaskId, Task],
    ) -> None:
        self._partitions = config.partitions
        self._specs = specs
        self._stores = stores
        self._tasks = tasks

    def own(self, task_id: TaskId) -> bool:
        """Have a task of this partition; whether it may start."""
        spec, store, shut = self._specs[task_id.topic], None, ""
        try:
            store = self._stores.take(task_id, spec)
        except StoreError as exc:
            logger.warning("%s waits, next attempt in %.0f s: %s", task_id, OPEN_AGAIN_S, exc)
            shut = str(exc)
        self._tasks[task_id] = Task(task_id, spec, store, self._partitions, shut)
        return not shut

    def ready(self) -> list[Task]:
        """Tasks that may start."""
        return [task for task in self._tasks.values() if not task.shut]

    async def opened(self) -> bool:
        """Wait until a store that was kept shut is open; False at once where none is shut."""
        shut = [task.id for task in self._tasks.values() if task.shut]
        while shut:
            await asyncio.sleep(OPEN_AGAIN_S)
            if [task_id for task_id in shut if self.own(task_id)]:
                return True
        return False
