"""Three layers of state of a table in one partition.

A step reads open -> in flight -> committed; a query reads committed. The open layer holds
whole new states, never changes inside old ones, so what was taken stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.engine.effects import KeyRange, TableSpec
from app.engine.store import Store
from app.engine.store_memory import DECODED_FACTOR

ROW_OVERHEAD_BYTES = 256
"""Key, place in the layer and the row's own object."""
ROW_BYTES_START = 4 << 10
DROPPED_MAX = 5_000
"""Rows one drop of a range removes: some ms for their keys, and a tombstone each."""
_ABSENT = object()


class Layers:
    """The three layers of one table in one partition. Implements the steps' TableView."""

    def __init__(self, spec: TableSpec, store: Store) -> None:
        self.spec = spec
        self._store = store
        self._open: dict[bytes, Any | None] = {}
        self._in_flight: Mapping[bytes, Any | None] = {}
        self._dropped: list[KeyRange] = []
        self._cached = store.rows.table()
        self._row_bytes = ROW_BYTES_START

    def get(self, key: bytes) -> Any | None:
        """State of the key as the next batch must see it."""
        state = self._open.get(key, _ABSENT)
        if state is _ABSENT:
            state = self._in_flight.get(key, _ABSENT)
        return self.committed(key) if state is _ABSENT else state

    def committed(self, key: bytes) -> Any | None:
        """State of the key that no transaction can undo."""
        state = self._cached.get(key)
        if state is None:
            raw = self._store.get(self.spec.identity, key)
            if raw is None:
                return None
            state = self.spec.aggregate.decode(raw)
            self._cached.put({key: state}, {key: raw})
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
        decode, cached = self.spec.aggregate.decode, self._cached.get
        rows = self._store.range(self.spec.identity, lo, hi, limit=limit, reverse=reverse)
        for key, raw in rows:
            state = cached(key)
            yield key, decode(raw) if state is None else state

    def stored(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same rows, encoded."""
        return self._store.range(self.spec.identity, lo, hi, limit=limit, reverse=reverse)

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

    def drop_range(self, lo: bytes, hi: bytes) -> None:
        """Remove the rows with ``lo <= key < hi`` in the open layer, uncommitted ones as well.

        Of the committed ones the first :data:`DROPPED_MAX`, and of the others those among them.
        The store forgets the range as a whole; the changelog has a tombstone for each row, so
        that it can be compacted and read like any other.
        """
        keys = self._store.keys(self.spec.identity, lo, hi, limit=DROPPED_MAX)
        if len(keys) == DROPPED_MAX:
            hi = keys[-1] + b"\0"
        keys += [key for layer in (self._in_flight, self._open) for key in layer if lo <= key < hi]
        if keys:
            self.delete(keys)
            self._dropped.append((lo, hi))

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

    def take_dropped(self) -> list[KeyRange]:
        """Ranges that were dropped in the open layer; to be asked for when it is taken."""
        taken, self._dropped = self._dropped, []
        return taken

    def settle(self, raw: Mapping[bytes, bytes | None]) -> Mapping[bytes, Any | None]:
        """The in-flight layer is committed and stored: forget it, keep its rows cached.

        ``raw`` are the rows as they were stored.
        """
        settled, self._in_flight = self._in_flight, {}
        rows, size = self._cached.put(settled, raw)
        if rows:
            self._row_bytes = ROW_OVERHEAD_BYTES + DECODED_FACTOR * size // rows
        return settled

    def drop(self) -> None:
        """Forget everything that is not in the store."""
        self._open, self._in_flight, self._dropped = {}, {}, []
        self._cached = self._store.rows.table()


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

    def stored(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same rows, encoded."""
        return self._layers.stored(lo, hi, limit=limit, reverse=reverse)
