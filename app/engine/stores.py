"""The stores of one worker: whoever has a partition takes its store, and gives it back open.

To close a RocksDB flushes it and to open one reads it back: half a second for two large
partitions on a busy machine, which a take-over would wait for. So a store that changes
hands, between owner and standby or over a rebalance, stays open, under a new handle: a
thread that still has the old one finds it closed.
"""

from __future__ import annotations

import threading
from collections.abc import Container

from app.engine.epoch import TaskId
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.store import Store
from app.engine.store_memory import StoreMemory


class Stores:
    """Stores by task, each in one hand at most. Safe to use from several threads."""

    def __init__(self, config: EngineConfig) -> None:
        self._folder = config.data_dir / "state"
        self._memory = StoreMemory(config.state_memory_bytes)
        self._idle: dict[TaskId, Store] = {}
        # Held while a store is closed: what is half closed cannot be opened, and would be
        # taken for damaged.
        self._lock = threading.Lock()

    def take(self, task: TaskId, spec: AgentSpec) -> Store | None:
        """The task's store, as it was given back or else opened; None if it has no tables.

        Raises :class:`~app.engine.store.StoreError` where it cannot be opened for now.
        """
        if not spec.tables:
            return None
        with self._lock:
            idle = self._idle.pop(task, None)
            if idle is not None:
                return idle
            path = self._folder / task.topic / str(task.partition)
            return Store.open(path, (table.identity for table in spec.tables), self._memory)

    def give(self, task: TaskId, store: Store) -> None:
        """Give a store back. The handle is closed, the database is not."""
        with self._lock:
            self._idle[task] = store.passed_on()

    def close_idle(self, keep: Container[TaskId] = ()) -> None:
        """Close what nobody has taken, but for the tasks to keep, which somebody will take."""
        with self._lock:
            for task in [task for task in self._idle if task not in keep]:
                self._idle.pop(task).close()
