"""Interactive queries over the engine's committed state, and who owns which partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from app.engine.clock import Clock
from app.engine.engine import Engine
from app.engine.epoch import TaskId
from app.engine.layers import CommittedRows
from app.engine.partitioner import partition_for
from app.engine.query import (
    CommitListener,
    ConsumerRow,
    LedgerRow,
    NotOwnedError,
    NotReadyError,
    Owner,
    Replica,
)
from app.engine.spec import AgentSpec
from app.engine.standby import StandbyRows
from app.engine.standby_tail import Standby
from app.engine.task import Task, TaskState
from app.engine.watch import consumer_row


class Cluster(Protocol):
    """Where partitions live, by physical topic: what the last assignment published."""

    def owner_url(self, topic: str, partition: int) -> str | None:
        """Advertised URL of the worker that owns a partition; None: not known."""
        ...

    def standby_urls(self, topic: str, partition: int) -> list[str]:
        """Advertised URLs of the other workers that keep a standby of it."""
        ...


@dataclass(frozen=True, slots=True)
class _ActiveReplica:
    task: Task
    position: int | None
    staleness_ms: int
    role: Literal["active", "standby"] = "active"

    def table(self, name: str) -> CommittedRows:
        return CommittedRows(self.task.layers[name])


@dataclass(frozen=True, slots=True)
class _StandbyReplica:
    standby: Standby
    spec: AgentSpec
    position: int | None
    staleness_ms: int
    role: Literal["active", "standby"] = "standby"

    def table(self, name: str) -> StandbyRows:
        table = next(table for table in self.spec.tables if table.name == name)
        return StandbyRows(self.standby.store, table)


class EngineQueries:
    """Implements :class:`app.engine.query.Queries`."""

    def __init__(self, engine: Engine, cluster: Cluster, clock: Clock) -> None:
        self._engine = engine
        self._cluster = cluster
        self._clock = clock

    @property
    def worker(self) -> str:
        """Name of this worker."""
        return self._engine.config.worker

    def owner(self, topic: str, key: bytes) -> Owner:
        """Owner of the key's partition."""
        return self._owner(topic, partition_for(key, self._engine.config.partitions[topic]))

    def owners(self, topic: str) -> list[Owner]:
        """Owner of each partition of the topic, by partition."""
        return [self._owner(topic, p) for p in range(self._engine.config.partitions[topic])]

    def _owner(self, topic: str, partition: int) -> Owner:
        local = TaskId(topic, partition) in self._engine.tasks
        url = self._cluster.owner_url(self._engine.config.physical(topic), partition)
        return Owner(partition, url, local)

    def table(self, topic: str, partition: int, name: str) -> CommittedRows:
        """Committed rows of one table in one partition."""
        self._engine.asked()
        return CommittedRows(self._running(topic, partition).layers[name])

    def _running(self, topic: str, partition: int) -> Task:
        task = self._engine.tasks.get(TaskId(topic, partition))
        if task is None:
            raise NotOwnedError(f"{topic}/{partition} is not owned by this worker")
        if task.state is not TaskState.RUNNING:
            raise NotReadyError(f"{topic}/{partition} is being restored")
        return task

    def staleness_ms(self, topic: str, partition: int) -> int:
        """Age of the oldest uncommitted change; 0 when there is none."""
        since = self._running(topic, partition).stale_since_ms
        return max(0, self._clock.now_ms() - since) if since else 0

    def replica(self, topic: str, partition: int) -> Replica:
        """What is here of a partition, owned or standby; valid until the event loop turns."""
        self._engine.asked()
        task_id = TaskId(topic, partition)
        standby = self._engine.standbys.find(task_id)
        if standby is not None:
            staleness_ms = self._engine.standbys.staleness_ms(standby)
            spec = self._engine.specs[topic]
            return _StandbyReplica(standby, spec, standby.position, staleness_ms)
        task = self._running(topic, partition)
        position = None if task.store is None else task.store.positions().changelog
        return _ActiveReplica(task, position, self.staleness_ms(topic, partition))

    def standbys(self, topic: str, partition: int) -> list[str]:
        """URLs of the other workers that keep a standby of the partition."""
        return self._cluster.standby_urls(self._engine.config.physical(topic), partition)

    def ready(self) -> tuple[bool, str]:
        """Whether every assigned partition runs, and if not, what is awaited."""
        if self._engine.membership is None:
            return False, "waiting for partitions from the consumer group"
        tasks = self._engine.tasks.values()
        held = [t.halted_by for t in tasks if t.state is TaskState.HALTED]
        held += [f"{t.id} waits for its store: {t.shut}" for t in tasks if t.shut]
        if held:
            return False, "; ".join(held)
        waiting = sum(t.state is not TaskState.RUNNING for t in self._engine.tasks.values())
        if not waiting:
            return True, "ready"
        progress = self._engine.starter.progress
        detail = f"restoring {waiting} of {len(self._engine.tasks)} partitions"
        return False, f"{detail}: {progress}" if progress.waiting_for else detail

    def ledger(self) -> list[LedgerRow]:
        """Account of every partition this worker runs."""
        return [
            LedgerRow(
                task.id.topic,
                task.id.partition,
                task.position,
                task.committed_position,
                task.counts,
                task.committed_counts,
                self._engine.watch.lag(task.id),
            )
            for task in self._engine.tasks.values()
            if task.state is TaskState.RUNNING
        ]

    def consumers(self) -> list[ConsumerRow]:
        """Every partition this worker owns, whatever its state."""
        return [consumer_row(task, self._engine.flow) for task in self._engine.tasks.values()]

    def live(self) -> tuple[bool, str]:
        """Whether every partition moves that should, and if not, which and why."""
        stalled = self._engine.watch.stalled()
        return not stalled, "; ".join(stalled)

    def on_commit(self, topic: str, table: str, listener: CommitListener) -> None:
        """Be told of every committed change of a table on this worker."""
        self._engine.listeners[topic, table].append(listener)
