"""One partition of an agent's topic: its position, its lanes, its layers of state."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from app.engine.counts import Counts
from app.engine.declared import Since
from app.engine.effects import Effects
from app.engine.epoch import TaskCommit, TaskId
from app.engine.lanes import Lanes
from app.engine.layers import Layers
from app.engine.pacing import BatchSize, TurnSize
from app.engine.reading import Reading
from app.engine.spec import AgentSpec
from app.engine.store import Store

TIME_TICKS = 2
"""Event-time ticks after event time moved: what an epoch wrote is in range for the next."""


class TaskState(enum.Enum):
    """A task takes batches only while RUNNING."""

    RESTORING = "restoring"
    RUNNING = "running"
    HALTED = "halted"
    CLOSED = "closed"


class Task:
    """A partition this worker owns. Implements the steps' View."""

    def __init__(
        self,
        task_id: TaskId,
        spec: AgentSpec,
        store: Store | None,
        partitions: Mapping[str, int] = MappingProxyType({}),
        shut: str = "",
    ) -> None:
        """``shut``: why its store cannot be opened, without which it does not start."""
        self._partitions = partitions
        self.shut = shut
        self.id = task_id
        self.spec = spec
        self.store = store
        self.state = TaskState.RESTORING
        self.position = 0
        self.committed_position = 0
        self._lanes = Lanes()
        self.counts = self.committed_counts = Counts()
        self._since: Since = {}
        self._anew: Mapping[str, int] = {}
        self.layers: dict[str, Layers] = (
            {} if store is None else {t.name: Layers(t, store) for t in spec.tables}
        )
        self.dirty_since_ms = 0
        self.in_flight_since_ms = 0
        self.batch_size = BatchSize()
        self.turn_size = TurnSize()
        self.reading = Reading()
        self.halted_by = ""
        self.isolating = False
        self._time_ticks = 0

    @property
    def lanes(self) -> Lanes:
        """Watermarks of this source partition."""
        return self._lanes

    def table(self, name: str) -> Layers:
        """A table of the group by its catalogue name."""
        return self.layers[name]

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic of the catalogue."""
        return self._partitions[topic]

    def start(
        self,
        position: int,
        lanes: Lanes,
        counts: Counts,
        since: Since = MappingProxyType({}),
        anew: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Begin at a position whose effects so far are exactly what the store holds.

        ``since``: what is in force since when; ``anew``: the tables that the next commit is to
        say have begun anew.
        """
        for layers in self.layers.values():
            layers.drop()
        self.position = self.committed_position = position
        self._lanes = lanes
        self.counts = self.committed_counts = counts
        self._since, self._anew = since, anew
        self.dirty_since_ms = self.in_flight_since_ms = 0
        self._time_ticks = TIME_TICKS
        self.reading = Reading()
        self.state, self.halted_by = TaskState.RUNNING, ""

    def stop(self) -> None:
        """Take no more batches; everything uncommitted is forgotten."""
        self.state = TaskState.RESTORING
        for layers in self.layers.values():
            layers.drop()

    def halt(self, reason: str) -> None:
        """Take no more batches until the partition is started anew; what was done stays."""
        self.state = TaskState.HALTED
        self.halted_by = reason

    def close(self) -> None:
        """Release the store."""
        self.stop()
        self.state = TaskState.CLOSED
        if self.store is not None:
            self.store.close()
            self.store = None

    def apply(self, effects: Effects) -> None:
        """Bring state, lanes and counts up to what a step decided."""
        for name, partials in effects.updates.items():
            self.layers[name].merge(partials)
        for name, states in effects.puts.items():
            self.layers[name].put(states)
        for name, keys in effects.deletes.items():
            self.layers[name].delete(keys)
        for name, ranges in effects.drops.items():
            for lo, hi in ranges:
                self.layers[name].drop_range(lo, hi)
        if effects.lanes is not None:
            self._lanes = effects.lanes
        if effects.time_moved:
            self._time_ticks = TIME_TICKS
        self.counts = self.counts.after(effects)

    @property
    def time_due(self) -> bool:
        """Whether the event-time tick is due."""
        return (
            self._time_ticks > 0
            and self.spec.on_time is not None
            and self.state is TaskState.RUNNING
        )

    def on_time(self, now_ms: int) -> Effects:
        """What the event-time tick decides."""
        self._time_ticks -= 1
        tick = self.spec.on_time
        return Effects() if tick is None else tick(self.id.partition, self, now_ms)

    @property
    def stale_since_ms(self) -> int:
        """When the oldest uncommitted batch came (epoch ms); 0 when there is none."""
        return self.in_flight_since_ms or self.dirty_since_ms

    @property
    def dirty(self) -> int:
        """Rows changed since the last take."""
        return sum(layers.dirty for layers in self.layers.values())

    @property
    def dirty_bytes(self) -> int:
        """Memory of the rows changed since the last take, estimated."""
        return sum(layers.dirty_bytes for layers in self.layers.values())

    def take(self) -> TaskCommit:
        """Freeze what this task adds to the epoch."""
        self.in_flight_since_ms, self.dirty_since_ms = self.dirty_since_ms, 0
        anew, self._anew = self._anew, {}
        return TaskCommit(
            self.position,
            self._lanes,
            self.counts,
            self.spec.changelog if self.layers else None,
            {layers.spec: layers.take() for layers in self.layers.values()},
            {layers.spec.identity: layers.take_dropped() for layers in self.layers.values()},
            self._since,
            anew,
        )
