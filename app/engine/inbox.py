"""What was fetched and not yet processed, in bytes, and which partitions wait for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from app.engine.epoch import TaskId

PAUSE_AT = 0.8
RESUME_AT = 0.5
DELIVERIES_MAX = 4
"""Deliveries one partition may have waiting: what comes later is fetched later, as one batch."""
PREFETCH_SHARE = 4
"""One part in so many of the bound is left to what the client fetches ahead."""
PREFETCH_MAX = 1 << 20
PREFETCH_MIN = 16 << 10
CHUNK_SHARE = 10


@dataclass(frozen=True, slots=True)
class FetchBounds:
    """Bytes: fetched ahead per partition and in all, held between fetch and step, one chunk."""

    prefetch_bytes: int
    prefetch_bytes_all: int
    held_bytes: int
    chunk_bytes: int


def fetch_bounds(bytes_max: int, partitions: int) -> FetchBounds:
    """Share out what may be fetched and not yet processed.

    ``partitions``: all a worker may come to own. What is fetched ahead is as compressed as
    it came; what is held is unpacked.
    """
    ahead = bytes_max // PREFETCH_SHARE
    each = min(PREFETCH_MAX, max(PREFETCH_MIN, ahead // max(1, partitions)))
    held = bytes_max - ahead
    return FetchBounds(each, max(each, ahead), held, held // CHUNK_SHARE)


class Inbox:
    """Counts bytes between fetch and step, and says whom to pause.

    At :data:`PAUSE_AT` of the bound every partition that holds something is paused; it goes
    on at :data:`RESUME_AT`, or once it holds nothing, so that a stuck partition may keep
    the room it has without stopping those that move. At the bound itself nothing at all is
    fetched. So it is passed by one fetch at most.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pause_at = int(bytes_max * PAUSE_AT)
        self._resume_at = int(bytes_max * RESUME_AT)
        self.held_bytes = 0
        self._held: dict[TaskId, tuple[int, int]] = {}
        self._paused: set[TaskId] = set()
        self._stopped: set[TaskId] = set()

    @property
    def full(self) -> bool:
        """Whether nothing may be fetched, of whatever partition."""
        return self.held_bytes >= self._bytes_max

    @property
    def paused(self) -> set[TaskId]:
        """Partitions to fetch nothing of now."""
        return self._paused | self._stopped

    def add(self, task: TaskId, size: int) -> None:
        """A delivery of ``size`` bytes is on its way to its agent."""
        held_bytes, deliveries = self._held.get(task, (0, 0))
        self._held[task] = held_bytes + size, deliveries + 1
        self.held_bytes += size
        if self.held_bytes >= self._pause_at:
            self._paused.update(self._held)
        elif deliveries + 1 >= DELIVERIES_MAX:
            self._paused.add(task)

    def done(self, task: TaskId, size: int) -> set[TaskId]:
        """A delivery was processed or dropped; the partitions that may be fetched again."""
        held_bytes, deliveries = self._held.pop(task, (0, 0))
        freed = min(size, held_bytes)  # what came before a clear is not counted any more
        self.held_bytes -= freed
        if deliveries > 1:
            self._held[task] = held_bytes - freed, deliveries - 1
        if not self._paused:
            return set()
        roomy = self.held_bytes <= self._resume_at
        resumed = {
            each
            for each in (self._paused if roomy else {task} & self._paused)
            if self._held.get(each, (0, 0))[1] <= (DELIVERIES_MAX * RESUME_AT if roomy else 0)
        }
        self._paused -= resumed
        return resumed - self._stopped

    def stop(self, task: TaskId) -> None:
        """Fetch nothing more of a partition until :meth:`clear`."""
        self._stopped.add(task)

    def clear(self) -> None:
        """Everything held was dropped; all partitions begin anew."""
        self.held_bytes = 0
        self._held.clear()
        self._paused.clear()
        self._stopped.clear()
