"""Decoded committed rows, bounded for the whole worker by what they weigh encoded.

A decoded histogram takes some twenty times the memory of its bytes, so the bound is on
bytes, not on rows: many small rows fit, or a few large ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakSet


class RowCache:
    """Room for the rows of all tables, in two generations.

    Rows read or written are young. When the young ones fill half of the room, the others are
    forgotten and the young ones are old: a row that nobody wants goes within two
    generations. That costs a row less than keeping all in order of their last use.
    """

    def __init__(self, bytes_max: int) -> None:
        self.row_bytes_max = bytes_max // 2
        self.room = self.row_bytes_max
        """Bytes that young rows may take yet."""
        self._tables: WeakSet[CachedRows] = WeakSet()

    def table(self) -> CachedRows:
        """Room for one more table, until it is forgotten."""
        rows = CachedRows(self)
        self._tables.add(rows)
        return rows

    def grown(self, size: int) -> None:
        """Young rows take ``size`` bytes more."""
        self.room -= size
        if self.room < 0:
            self.room = self.row_bytes_max
            for rows in self._tables:
                rows.age()

    def __len__(self) -> int:
        return sum(map(len, self._tables))


class CachedRows:
    """The rows of one table that are at hand."""

    __slots__ = ("__weakref__", "_cache", "_old", "_young")

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache
        self._young: dict[bytes, tuple[Any, int]] = {}
        self._old: dict[bytes, tuple[Any, int]] = {}

    def get(self, key: bytes) -> Any | None:
        """The state, or None when it is not here."""
        held = self._young.get(key)
        if held is None:
            held = self._old.pop(key, None)
            if held is None:
                return None
            self._young[key] = held
            self._cache.grown(held[1])
        return held[0]

    def put(
        self, states: Mapping[bytes, Any | None], raw: Mapping[bytes, bytes | None]
    ) -> tuple[int, int]:
        """Keep states, for as long as there is room; ``raw``: what they are encoded.

        Forgets those that are None, or that are not stored. Returns how many of them are
        stored, and their encoded bytes.
        """
        cache, stored, size, grown = self._cache, 0, 0, 0
        for key, state in states.items():
            encoded = raw.get(key)
            held = self._young.get(key)
            if held is not None:
                grown -= held[1]
            if state is not None and encoded is not None:
                stored += 1
                size += len(encoded)
                weight = len(key) + len(encoded)
                if weight <= cache.row_bytes_max:
                    # One of the same key among the old is hidden by this, and goes first.
                    self._young[key] = state, weight
                    grown += weight
                    if grown > cache.room:
                        cache.grown(grown)
                        grown = 0
                    continue
            self._old.pop(key, None)
            if held is not None:
                del self._young[key]
        cache.grown(grown)
        return stored, size

    def age(self) -> None:
        """Forget the old rows; the young ones are old now."""
        self._young, self._old = {}, self._young

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
