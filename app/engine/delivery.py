"""Between the consumer and the engine: what is handed over, and how the consumer is steered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from app.engine.batch import RecordBatch
from app.engine.epoch import TaskId
from app.engine.reading import LogEnd


class Reach(Protocol):
    """How far the consumer has come with a partition."""

    def delivered(self, task: TaskId) -> int:
        """Next offset after everything handed to the agents."""
        ...

    def fetched(self, task: TaskId) -> int | None:
        """Next offset to fetch, once everything before it was handed over; it may be behind."""
        ...

    def end(self, task: TaskId) -> int | None:
        """End of the committed log, as far as it is known."""
        ...

    def appended(self, task: TaskId) -> LogEnd | None:
        """End of the log, committed or not, as the last fetch saw it; None before the first."""
        ...

    def paused(self, task: TaskId) -> bool:
        """Whether nothing of it is fetched, because enough is held or it is halted."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes handed over and not yet processed, of all partitions."""
        ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """A batch, the token under which it was fetched, and the bytes it takes in memory."""

    batch: RecordBatch
    token: int
    size: int

    @property
    def record_bytes(self) -> int:
        """Bytes a record of it takes, on average."""
        return max(1, self.size // max(1, len(self.batch)))


class Flow(Reach, Protocol):
    """The consumer, as far as the engine steers it."""

    def hold(self) -> None:
        """Deliver nothing more."""
        ...

    async def release(self, positions: Mapping[TaskId, int]) -> None:
        """Seek, then deliver from there under the current token."""
        ...
