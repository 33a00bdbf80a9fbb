"""Answers kept for a while, bounded by their bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class LruCache:
    """Answers used of late. ``group``: a number that what belongs together has in common."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._answers: OrderedDict[tuple[int, bytes], tuple[Any, int]] = OrderedDict()

    def get(self, group: int, key: bytes) -> Any | None:
        """The answer, or None when it is not here."""
        held = self._answers.get((group, key))
        if held is None:
            return None
        self._answers.move_to_end((group, key))
        return held[0]

    def put(self, group: int, key: bytes, answer: Any, size: int) -> None:
        """Keep an answer that takes ``size`` bytes encoded, for as long as there is room."""
        self.discard(group, key)
        weight = size + len(key)
        if weight > self._bytes_max:
            return
        self._answers[group, key] = (answer, weight)
        self._bytes += weight
        while self._bytes > self._bytes_max:
            _, (_, freed) = self._answers.popitem(last=False)
            self._bytes -= freed

    def discard(self, group: int, key: bytes) -> None:
        """Forget an answer."""
        held = self._answers.pop((group, key), None)
        if held is not None:
            self._bytes -= held[1]
