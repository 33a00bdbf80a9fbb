"""Liveness judged by movement: live means the position moves while lag exists, or lag is zero.

Answering HTTP proves nothing of a consumer that hangs after a broker restart. Pure; time
is passed in as monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.engine.epoch import TaskId


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a partition.

    ``progress`` grows with any movement (records processed, changelog records restored);
    ``lag`` is in records, None while it is not known; ``waiting_for`` says what a partition
    that does not run waits for, "" for a running one.
    """

    progress: int
    lag: int | None
    waiting_for: str = ""


def lag(processed: int, delivered: int, fetched: int, end: int) -> int:
    """Records between what is processed and the log's end.

    ``fetched`` lies behind transaction markers that no record follows; once everything
    delivered is processed it is what counts, or a transactional topic never reaches zero.
    """
    return max(0, end - (fetched if processed >= delivered else processed))


@dataclass(slots=True)
class Liveness:
    """Remembers when each partition last moved."""

    stall_s: float
    _moved: dict[TaskId, tuple[int, float]] = field(default_factory=dict)

    def observe(self, sights: Mapping[TaskId, Sight], now_s: float) -> None:
        """Take note of every partition owned now; others are forgotten."""
        moved: dict[TaskId, tuple[int, float]] = {}
        for task, sight in sights.items():
            before = self._moved.get(task)
            idle = sight.lag == 0 and not sight.waiting_for
            still = before is not None and before[0] == sight.progress and not idle
            moved[task] = before if before is not None and still else (sight.progress, now_s)
        self._moved = moved

    def stalled(self, sights: Mapping[TaskId, Sight], now_s: float) -> list[str]:
        """Partitions that have not moved for the stall time, each with the reason."""
        found = []
        for task, sight in sights.items():
            _, since = self._moved.get(task, (0, now_s))
            if now_s - since >= self.stall_s:
                why = (
                    f"waiting for {sight.waiting_for}"
                    if sight.waiting_for
                    else f"{'unknown' if sight.lag is None else sight.lag} records behind"
                )
                found.append(f"{task} has not moved for {now_s - since:.0f} s: {why}")
        return found
