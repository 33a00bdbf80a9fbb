"""Answers kept for a while, bounded by their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class LruCache:
    """Answers used of late."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._answers: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:
        """The answer, or None when it is not here."""
        held = self._answers.get(key)
        if held is None:
            return None
        self._answers.move_to_end(key)
        return held[0]

    def put(self, key: Hashable, answer: Any, size: int) -> None:
        """Keep an answer that takes ``size`` bytes with its key, for as long as there is room."""
        self.discard(key)
        if size > self._bytes_max:
            return
        self._answers[key] = answer, size
        self._bytes += size
        while self._bytes > self._bytes_max:
            _, (_, freed) = self._answers.popitem(last=False)
            self._bytes -= freed

    def discard(self, key: Hashable) -> None:
        """Forget an answer."""
        held = self._answers.pop(key, None)
        if held is not None:
            self._bytes -= held[1]
