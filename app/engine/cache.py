"""Decoded committed rows, bounded for the whole worker by what they weigh encoded.

A decoded histogram takes some twenty times the memory of its bytes, so the bound is on
bytes, not on rows: many small rows fit, or a few large ones.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class RowCache:
    """Least recently used rows of all tables. ``owner`` is any object that stands for a table.

    A table that forgets its rows takes another owner; what the old one left ages out.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._rows: OrderedDict[tuple[int, bytes], tuple[Any, int]] = OrderedDict()

    def get(self, owner: int, key: bytes) -> Any | None:
        """The state, or None when it is not here."""
        held = self._rows.get((owner, key))
        if held is None:
            return None
        self._rows.move_to_end((owner, key))
        return held[0]

    def put(self, owner: int, key: bytes, state: Any, size: int) -> None:
        """Keep a state that takes ``size`` bytes encoded, for as long as there is room."""
        self.discard(owner, key)
        weight = size + len(key)
        if weight > self._bytes_max:
            return
        self._rows[owner, key] = (state, weight)
        self._bytes += weight
        while self._bytes > self._bytes_max:
            _, (_, freed) = self._rows.popitem(last=False)
            self._bytes -= freed

    def discard(self, owner: int, key: bytes) -> None:
        """Forget a row."""
        held = self._rows.pop((owner, key), None)
        if held is not None:
            self._bytes -= held[1]

    def __len__(self) -> int:
        return len(self._rows)
