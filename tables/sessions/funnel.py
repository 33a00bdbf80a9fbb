"""Evidence of a funnel: when each step was seen, so that their order can be judged at the end.

Times of a step are kept as the :data:`EDGE` earliest and the :data:`EDGE` latest distinct
ones, ascending. Keeping both ends of a set is associative and commutative, whatever the order
of arrival. A step seen more often than both hold may hide an order that only its middle
times would show: a conversion is then missed, never made up.
"""

from __future__ import annotations

EDGE = 8

Times = tuple[int, ...]
Evidence = tuple[Times, ...]
"""Times (epoch ms) by step; empty when no step was seen."""


def bounded(times: set[int]) -> Times:
    """The times kept of a set."""
    ordered = sorted(times)
    if len(ordered) > 2 * EDGE:
        ordered = ordered[:EDGE] + ordered[-EDGE:]
    return tuple(ordered)


def merge_evidence(left: Evidence, right: Evidence) -> Evidence:
    """Both, combined; of one funnel, or one of them empty."""
    if not right:
        return left
    if not left:
        return right
    return tuple(
        one if one == other or not other else other if not one else bounded({*one, *other})
        for one, other in zip(left, right, strict=True)
    )


def depth(evidence: Evidence) -> int:
    """How many steps were taken one after the other, from the first on; equal times are in order.

    A step repeated counts once.
    """
    at, reached = -1, 0
    for times in evidence:
        following = next((each for each in times if each >= at), None)
        if following is None:
            break
        at, reached = following, reached + 1
    return reached
