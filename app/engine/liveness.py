"""Liveness judged by progress: live means that commits move a partition on, or none is due.

Answering HTTP proves nothing of a consumer that hangs after a broker restart, and what is
read but never committed is no progress: the next failure takes it back. Pure; time is passed
in as monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from app.engine.epoch import TaskId
from app.engine.membership import Membership


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a partition.

    ``committed`` is the offset a crash goes back to, None while the partition is restored;
    ``restored`` counts changelog offsets passed by the restore under way. ``lag``: records not
    read, None while that is not known; ``uncommitted``: read, and not yet committed.
    ``waiting_for`` says what a partition that does not run waits for, "" for a running one.
    ``answer`` is another number with each answer of the broker to a fetch: what is known of the
    log's end is as old as the last one.
    """

    committed: int | None
    restored: int
    lag: int | None
    uncommitted: int = 0
    waiting_for: str = ""
    answer: int | None = None

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing to do, as far as is known."""
        return self.lag == 0 and not self.uncommitted and not self.waiting_for

    def why(self) -> str:
        """What there is to do, or what is in the way of it."""
        if self.waiting_for:
            return f"waiting for {self.waiting_for}"
        if self.at_rest:
            return "no fetch was answered since, look whether the worker reaches the broker"
        behind = "an unknown number of" if self.lag is None else f"{self.lag}"
        read = f", {self.uncommitted} read and not committed" if self.uncommitted else ""
        return f"{behind} records to read{read}"


def lag(processed: int, delivered: int, fetched: int, end: int) -> int:
    """Records between what is processed and the log's end.

    ``fetched`` lies behind transaction markers that no record follows; once everything
    delivered is processed it is what counts, or a transactional topic never reaches zero.
    """
    return max(0, end - (fetched if processed >= delivered else processed))


@dataclass(frozen=True, slots=True)
class _Best:
    """The furthest a partition has come, and when it came there or was last at rest."""

    assignment: Membership
    committed: int | None
    restored: int
    since_s: float
    answer: int | None


@dataclass(slots=True)
class Liveness:
    """Remembers when each partition last came further than ever, and how long there is no group.

    Falling back to a former position, and passing again what was passed before, is no
    movement. Only a new assignment may begin elsewhere. Nothing to do is rest while the broker
    goes on saying so.
    """

    stall_s: float
    _best: dict[TaskId, _Best] = field(default_factory=dict)
    _outside_since_s: float | None = None

    def observe(
        self, sights: Mapping[TaskId, Sight], membership: Membership | None, now_s: float
    ) -> None:
        """Take note of every partition owned now.

        Others are forgotten, but not between two assignments (``membership`` None): a group
        that is dealt out again and again without a commit does not move. The time outside is
        not held against the partitions.
        """
        if membership is None:
            if self._outside_since_s is None:
                self._outside_since_s = now_s
            return
        outside_s = 0.0 if self._outside_since_s is None else now_s - self._outside_since_s
        self._outside_since_s = None
        best: dict[TaskId, _Best] = {}
        for task, sight in sights.items():
            before = self._best.get(task)
            if before is not None and outside_s:
                before = replace(before, since_s=before.since_s + outside_s)
            best[task] = _best(before, sight, membership, now_s)
        self._best = best

    def stalled(self, sights: Mapping[TaskId, Sight], now_s: float) -> list[str]:
        """What has not moved for the stall time, each with the reason."""
        found = []
        outside_s = 0.0 if self._outside_since_s is None else now_s - self._outside_since_s
        if outside_s >= self.stall_s:
            found.append(
                f"this worker has been in no consumer group for {outside_s:.0f} s: look whether "
                "it reaches the broker, and in its log for what the group answers"
            )
        for task, sight in sights.items():
            best = self._best.get(task)
            if best is None or now_s - best.since_s < self.stall_s:
                continue
            still_s = now_s - best.since_s
            found.append(f"{task} has committed nothing for {still_s:.0f} s: {sight.why()}")
        return found


def _best(before: _Best | None, sight: Sight, assignment: Membership, now_s: float) -> _Best:
    if before is None:
        return _Best(assignment, sight.committed, sight.restored, now_s, sight.answer)
    if sight.committed is None:
        if sight.restored <= before.restored:
            return before
        return replace(before, restored=sight.restored, since_s=now_s)
    known = before.committed
    elsewhere = before.assignment != assignment and sight.committed != known
    resting = sight.at_rest and sight.answer != before.answer
    if known is None or sight.committed > known or elsewhere or resting:
        return _Best(assignment, sight.committed, 0, now_s, sight.answer)
    return replace(before, assignment=assignment, answer=sight.answer)
