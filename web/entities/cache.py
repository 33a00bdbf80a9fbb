"""Answers of other workers, for a second: a busy entity costs one hop a second, not one a read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from web.lru import LruCache

TTL_S: Final = 1.0
CACHE_BYTES_MAX: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said of one entity: HTTP status, JSON document, its version (0: none)."""

    status: int
    document: dict[str, Any]
    version: int


class AnswerCache:
    """Answers by entity key, each for :data:`TTL_S` from when it was asked for.

    What it gives was true less than a second ago, because the owner answered after it was
    asked. An answer never replaces one of a higher version (the partition may have just
    moved), and a change that this worker accepted removes what is older than it.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """``monotonic`` gives seconds that never go back."""
        self._monotonic = monotonic
        self._rows = LruCache(CACHE_BYTES_MAX)

    def now(self) -> float:
        """When an owner is asked, for :meth:`put`."""
        return self._monotonic()

    def get(self, key: bytes) -> tuple[Answer, int] | None:
        """The answer and its age in ms, or None when there is none young enough."""
        held: tuple[float, Answer] | None = self._rows.get(key)
        if held is None:
            return None
        age_s = self._monotonic() - held[0]
        if age_s >= TTL_S:
            self._rows.discard(key)
            return None
        return held[1], round(age_s * 1000)

    def put(self, key: bytes, answer: Answer, asked_at: float, size: int) -> None:
        """Keep an answer of ``size`` bytes that was asked for at ``asked_at``."""
        held = self.get(key)
        if held is None or held[0].version <= answer.version:
            self._rows.put(key, (asked_at, answer), size + len(key))

    def changed(self, key: bytes, version: int) -> None:
        """This worker took in a change of the entity to ``version``."""
        held = self.get(key)
        if held is not None and held[0].version < version:
            self._rows.discard(key)
