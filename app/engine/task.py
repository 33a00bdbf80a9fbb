"""One partition of an agent's topic: its position, its lanes, its three layers of state.

A step reads open -> in flight -> committed; a query reads committed. The open layer holds
whole new states, never changes inside old ones, so what was taken stays as it was.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from app.engine.counts import Counts
from app.engine.effects import Effects, TableSpec
from app.engine.epoch import TaskCommit, TaskId
from app.engine.lanes import Lanes
from app.engine.pacing import BatchSize
from app.engine.spec import AgentSpec
from app.engine.store import DECODED_FACTOR, Store

ROW_OVERHEAD_BYTES = 256
"""Key, place in the layer and the row's own object."""
ROW_BYTES_START = 4 << 10
_owners = itertools.count()
_ABSENT = object()
TIME_TICKS = 2
"""Event-time ticks after event time moved: what an epoch wrote is in range for the next."""


class TaskState(enum.Enum):
    """A task takes batches only while RUNNING."""

    RESTORING = "restoring"
    RUNNING = "running"
    HALTED = "halted"
    CLOSED = "closed"


class Layers:
    """The three layers of one table in one partition. Implements the steps' TableView."""

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self.spec = spec
        self._store = store
        self._open: dict[bytes, Any | None] = {}
        self._in_flight: Mapping[bytes, Any | None] = {}
        self._cache, self._owner = store.rows, next(_owners)
        self._row_bytes = ROW_BYTES_START

    def get(self, key: bytes) -> Any | None:
        """State of the key as the next batch must see it."""
        state = self._open.get(key, _ABSENT)
        if state is _ABSENT:
            state = self._in_flight.get(key, _ABSENT)
        return self.committed(key) if state is _ABSENT else state

    def committed(self, key: bytes) -> Any | None:
        """State of the key that no transaction can undo."""
        state = self._cache.get(self._owner, key)
        if state is None:
            raw = self._store.get(self.spec.identity, key)
            if raw is None:
                return None
            state = self.spec.aggregate.decode(raw)
            self._cache.put(self._owner, key, state, len(raw))
        return state

    def scan(self, prefix: bytes, limit: int) -> Iterable[tuple[bytes, Any]]:
        """Committed rows whose key starts with ``prefix``."""
        for key, state in self.range(prefix, None, limit=limit):
            if not key.startswith(prefix):
                return
            yield key, state

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """Committed rows with ``lo <= key < hi``, at most ``limit``."""
        decode, cached, owner = self.spec.aggregate.decode, self._cache.get, self._owner
        rows = self._store.range(self.spec.identity, lo, hi, limit=limit, reverse=reverse)
        for key, raw in rows:
            state = cached(owner, key)
            yield key, decode(raw) if state is None else state

    def merge(self, partials: Mapping[bytes, Any]) -> None:
        """Merge partials into the open layer."""
        merge, merged, get = self.spec.aggregate.merge, {}, self.get
        for key, partial in partials.items():
            state = get(key)
            merged[key] = partial if state is None else merge(state, partial)
        self._open.update(merged)

    def put(self, states: Mapping[bytes, Any]) -> None:
        """Set new states in the open layer; each is what merging would have given."""
        self._open.update(states)

    def delete(self, keys: Iterable[bytes]) -> None:
        """Remove rows in the open layer."""
        for key in keys:
            self._open[key] = None

    @property
    def dirty(self) -> int:
        """Rows in the open layer."""
        return len(self._open)

    @property
    def dirty_bytes(self) -> int:
        """Memory of the open layer, were its rows like those stored last."""
        return len(self._open) * self._row_bytes

    def take(self) -> Mapping[bytes, Any | None]:
        """Freeze the open layer as the in-flight one. The former must have been settled."""
        self._in_flight, self._open = self._open, {}
        return self._in_flight

    def settle(self, raw: Mapping[bytes, bytes | None]) -> Mapping[bytes, Any | None]:
        """The in-flight layer is committed and stored: forget it, keep its rows cached.

        ``raw`` are the rows as they were stored.
        """
        settled, self._in_flight = self._in_flight, {}
        size = rows = 0
        for key, state in settled.items():
            stored = raw.get(key)
            if state is None or stored is None:
                self._cache.discard(self._owner, key)
            else:
                self._cache.put(self._owner, key, state, len(stored))
                size, rows = size + len(stored), rows + 1
        if rows:
            self._row_bytes = ROW_OVERHEAD_BYTES + DECODED_FACTOR * size // rows
        return settled

    def drop(self) -> None:
        """Forget everything that is not in the store."""
        self._open, self._in_flight = {}, {}
        self._owner = next(_owners)


class CommittedRows:
    """What queries may see of a table. Implements :class:`app.engine.query.CommittedTable`."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers

    def get(self, key: bytes) -> Any | None:
        """Committed state of the key, or None."""
        return self._layers.committed(key)

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """Committed rows with ``lo <= key < hi``, at most ``limit``."""
        return self._layers.range(lo, hi, limit=limit, reverse=reverse)


class Task:
    """A partition this worker owns. Implements the steps' View."""

    def __init__(
        self,
        task_id: TaskId,
        spec: AgentSpec,
        store: Store | None,
        partitions: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._partitions = partitions
        self.id = task_id
        self.spec = spec
        self.store = store
        self.state = TaskState.RESTORING
        self.position = 0
        self.committed_position = 0
        self._lanes = Lanes()
        self.counts = self.committed_counts = Counts()
        self.layers: dict[str, Layers] = (
            {} if store is None else {t.name: Layers(t, store) for t in spec.tables}
        )
        self.dirty_since_ms = 0
        self.in_flight_since_ms = 0
        self.batch_size = BatchSize()
        self.halted_by = ""
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

    def start(self, position: int, lanes: Lanes, counts: Counts) -> None:
        """Begin at a position whose effects so far are exactly what the store holds."""
        for layers in self.layers.values():
            layers.drop()
        self.position = self.committed_position = position
        self._lanes = lanes
        self.counts = self.committed_counts = counts
        self.dirty_since_ms = self.in_flight_since_ms = 0
        self._time_ticks = TIME_TICKS
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
        return TaskCommit(
            self.position,
            self._lanes,
            self.counts,
            self.spec.changelog if self.layers else None,
            {layers.spec: layers.take() for layers in self.layers.values()},
        )
