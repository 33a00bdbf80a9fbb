"""What the engine hands to an agent: one partition's freshly fetched records, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition in offset order, column by column (all of one length, >= 1).

    Offsets ascend but may have holes (transaction markers, compaction).
    ``timestamps`` are ingest time in epoch milliseconds: topics use the broker's append
    time, so they are the same whenever the record is read.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    timestamps: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers]

    @property
    def next_offset(self) -> int:
        """Position to commit once every record of the batch has its effects."""
        return self.offsets[-1] + 1

    def __len__(self) -> int:
        return len(self.offsets)


def header(headers: Headers, name: str) -> bytes | None:
    """First header of that name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
