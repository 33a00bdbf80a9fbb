"""How often a step is tried on a batch, as the agent's failure policy says. Pure."""

from __future__ import annotations

from app.engine.spec import FailurePolicy
from app.engine.steps import Attempt, StepFailedError

RETRY_WAITS_S = (0.5, 2.0, 8.0)


class Attempts:
    """The attempts at one batch: :attr:`attempt` is the one to make now."""

    def __init__(self, policy: FailurePolicy) -> None:
        self._waits_s = RETRY_WAITS_S if policy is FailurePolicy.RETRY else ()
        self._stops = policy is FailurePolicy.STOP
        self._first_failed_ms: int | None = None
        self._failed = 0

    @property
    def attempt(self) -> Attempt:
        """What the policy wants of this run."""
        last = self._failed >= len(self._waits_s)
        isolate = last and not self._stops
        return Attempt(self._failed + 1, self._first_failed_ms, isolate, not self._stops)

    def failed(self, now_ms: int) -> float | None:
        """The attempt failed: seconds until the next; None: the partition halts."""
        if self._first_failed_ms is None:
            self._first_failed_ms = now_ms
        self._failed += 1
        return self._waits_s[self._failed - 1] if self._failed <= len(self._waits_s) else None


def halted_by(error: StepFailedError) -> str:
    """Why a partition halts, and what to do."""
    return f"{error}; mend the cause, then start the worker again"
