"""The sum of a window that slides over panes. Pure."""

from __future__ import annotations

from tables.windows.stats import EMPTY, WindowStats, merge_stats


class Sliding:
    """A queue of panes in ascending order of their starts, and the merge of the last of them.

    Two merges a pane and one a total, however many are in it: the older panes wait with the
    merge of each with all behind it, the newer as one merge (two-stack queue of Tangwongsan
    et al., "General incremental sliding-window aggregation", VLDB 2015).
    """

    __slots__ = ("_newer", "_newest", "_older")

    def __init__(self) -> None:
        self._older: list[tuple[int, WindowStats]] = []  # newest first
        self._newer: list[tuple[int, WindowStats]] = []
        self._newest = EMPTY

    def __bool__(self) -> bool:
        return bool(self._older or self._newer)

    def push(self, start_ms: int, stats: WindowStats) -> None:
        """Add a pane; none that is in it starts later."""
        self._newer.append((start_ms, stats))
        self._newest = merge_stats(self._newest, stats)

    def total(self, from_ms: int) -> WindowStats:
        """The panes that start at ``from_ms`` or later as one state; the others are dropped."""
        older = self._older
        while older and older[-1][0] < from_ms:
            older.pop()
        if older:
            return merge_stats(older[-1][1], self._newest)
        if self._newer and self._newer[0][0] < from_ms:
            self._turn(from_ms)
        return older[-1][1] if older else self._newest

    def _turn(self, from_ms: int) -> None:
        behind = EMPTY
        for start_ms, stats in reversed(self._newer):
            if start_ms < from_ms:
                break
            behind = merge_stats(stats, behind)
            self._older.append((start_ms, behind))
        self._newer.clear()
        self._newest = EMPTY
