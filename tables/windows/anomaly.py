"""The three-sigma rule on closed windows: is the newest unlike those before it? Pure.

Deliberately simple: it needs no state of its own, because the windows are the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

SIGMAS = 3.0
BASELINE_MAX = 60
"""Closed windows before the one judged that make its baseline."""
BASELINE_MIN = 10
"""With fewer nothing is flagged."""
FLOOR_SHARE = 0.01
"""Least deviation as a share of the mean: a flat baseline would flag any change at all."""
FLOOR = 1e-6


@dataclass(frozen=True, slots=True)
class Judgement:
    """A value against its baseline. ``score`` is its distance from the mean in deviations."""

    value: float
    mean: float
    deviation: float
    score: float

    @property
    def flagged(self) -> bool:
        """More than :data:`SIGMAS` deviations away, on either side."""
        return abs(self.score) > SIGMAS


def judge(baseline: Sequence[float], value: float) -> Judgement | None:
    """``value`` against the last :data:`BASELINE_MAX` of the baseline, oldest first.

    None while the baseline has fewer than :data:`BASELINE_MIN` values. The deviation is
    that of the population, and at least one per cent of the mean.
    """
    known = baseline[-BASELINE_MAX:]
    if len(known) < BASELINE_MIN:
        return None
    mean = sum(known) / len(known)
    spread = sqrt(sum((each - mean) ** 2 for each in known) / len(known))
    deviation = max(spread, FLOOR_SHARE * abs(mean), FLOOR)
    return Judgement(value, mean, deviation, (value - mean) / deviation)
