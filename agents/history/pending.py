"""Records on their way into a file: one batch of one partition, of one day. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tables.history.datasets import Row, Taken
from tables.history.names import HistoryFile, Source, day_of

ROWS_MAX: Final = 20_000
BYTES_MAX: Final = 8 << 20
AGE_MAX_S: Final = 30.0
"""How long a record waits for company."""


@dataclass(slots=True)
class Pending:
    """What was read of one partition since its last file.

    ``first`` is where its range begins; ``next`` is the offset after what was read.
    ``since_s`` is when the oldest row came (monotonic). ``placed``: every key so far lies
    in its murmur2 partition.
    """

    source: Source
    first: int
    next: int
    day: str = ""
    rows: list[Row] = field(default_factory=list)
    bytes: int = 0
    since_s: float = 0.0
    min_ms: int = 0
    max_ms: int = 0
    placed: bool = True

    def fits(self, append_ms: int) -> bool:
        """Whether a record appended then may join: a file holds one day."""
        return not self.rows or day_of(append_ms) == self.day

    def add(
        self, offset: int, taken: Taken, append_ms: int, size: int, placed: bool, now_s: float
    ) -> None:
        """Take a row; it must fit."""
        if not self.rows:
            self.day = day_of(append_ms)
            self.since_s = now_s
            self.min_ms, self.max_ms = taken.min_ms, taken.max_ms
            self.placed = True
        self.rows.append((offset, *taken.row))
        self.bytes += size
        self.min_ms = min(self.min_ms, taken.min_ms)
        self.max_ms = max(self.max_ms, taken.max_ms)
        self.placed = self.placed and placed
        self.next = offset + 1

    def skip(self, offset: int) -> None:
        """Pass over a record that is no row; it belongs to the range all the same."""
        self.next = offset + 1

    def full(self) -> bool:
        """Whether it must be written before more is read."""
        return len(self.rows) >= ROWS_MAX or self.bytes >= BYTES_MAX

    def due(self, now_s: float, age_max_s: float) -> bool:
        """Whether its oldest row has waited long enough."""
        return bool(self.rows) and now_s - self.since_s >= age_max_s

    def file(self, partitions: int) -> HistoryFile:
        """The file of the rows (>= 1)."""
        return HistoryFile(
            self.source,
            self.first,
            self.next - 1,
            self.min_ms,
            self.max_ms,
            self.day,
            partitions if self.placed else None,
        )

    def written(self) -> None:
        """Begin anew after what was written."""
        self.first = self.next
        self.rows = []
        self.bytes = 0
