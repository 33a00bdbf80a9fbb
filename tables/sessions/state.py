"""Sessions of one user as sets of intervals that merge, whatever order their parts come in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from app.models.rules import TIMESTAMP_MAX
from tables.lanes import ROW_LANES_MAX, merge_lanes
from tables.sessions.funnel import EDGE, Evidence, merge_evidence

COUNT_MAX = 1 << 32
"""More events than one partial can hold: what claims more was not written here."""

_Count = Annotated[int, Meta(ge=0)]
_Time = Annotated[int, Meta(ge=0, le=TIMESTAMP_MAX)]


class Closed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What was last said of a session: enough to supersede it, and to take it back from sums.

    ``start`` and ``number`` are those of its id then.
    """

    start: _Time
    end: _Time
    count: _Count
    pages: _Count
    depth: _Count
    revision: _Count
    number: _Count = 0


class Session(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Events of one user without a pause longer than the gap. ``[start, end]``, epoch ms.

    ``pages`` of the ``count`` events named an endpoint. ``lanes`` are the lane ids (sorted)
    that fed it. ``updated_ms`` is the ingest time of the latest event. ``closed`` is what was
    last said of it, by start: empty while it was never closed, several once an event has
    joined sessions that were closed apart. ``number`` tells it from a session of the same
    ``start`` that has left the row; see :class:`tables.sessions.rows.UserSessions`.
    """

    start: _Time
    end: _Time
    count: _Count
    pages: _Count
    steps: Evidence = ()
    lanes: tuple[str, ...] = ()
    updated_ms: _Count = 0
    closed: tuple[Closed, ...] = ()
    number: _Count = 0

    @property
    def settled(self) -> bool:
        """Whether what was last said of it still holds: an event always adds to the count."""
        closed = self.closed
        return len(closed) == 1 and closed[0].count == self.count


Sessions = tuple[Session, ...]
"""Ascending, each more than the gap after the one before."""


def join(left: Session, right: Session) -> Session:
    """One session of two that are within the gap."""
    one, other = left.lanes, right.lanes
    start, number = left.start, left.number
    if right.start <= start:
        number = max(number, right.number) if right.start == start else right.number
        start = right.start
    # Nothing is called that has nothing to decide, because this runs for every event.
    return Session(
        start,
        max(left.end, right.end),
        left.count + right.count,
        left.pages + right.pages,
        merge_evidence(left.steps, right.steps) if right.steps else left.steps,
        one if one == other else merge_lanes(one, other),
        max(left.updated_ms, right.updated_ms),
        _merge_closed(left.closed, right.closed) if right.closed else left.closed,
        number,
    )


def _merge_closed(left: tuple[Closed, ...], right: tuple[Closed, ...]) -> tuple[Closed, ...]:
    if not left:
        return right
    by_id = {(each.start, each.number): each for each in left}
    for each in right:
        held = by_id.get((each.start, each.number))
        by_id[each.start, each.number] = each if held is None else max(held, each, key=_latest)
    return tuple(by_id[key] for key in sorted(by_id))


def _latest(said: Closed) -> tuple[int, ...]:
    return (said.revision, said.count, said.end, said.pages, said.depth)


def merge_sessions(left: Sessions, right: Sessions, gap_ms: int) -> Sessions:
    """Union of two sets, where sessions exactly ``gap_ms`` apart are one.

    Associative and commutative; the empty set is neutral.
    """
    if not left or not right:
        return left or right
    if len(left) == len(right) == 1:
        one, other = left[0], right[0]
        if one.start > other.end + gap_ms:
            return (other, one)
        if other.start > one.end + gap_ms:
            return (one, other)
        return (join(one, other),)
    return coalesce(sorted((*left, *right), key=lambda each: each.start), gap_ms)


def coalesce(ascending: Iterable[Session], gap_ms: int) -> Sessions:
    """Sessions in order of start, joined where they are within the gap."""
    found: list[Session] = []
    for each in ascending:
        if found and each.start <= found[-1].end + gap_ms:
            found[-1] = join(found[-1], each)
        else:
            found.append(each)
    return tuple(found)


class Partial(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Sessions on their way to the user's partition, with the gap they were parted by."""

    gap_ms: _Count
    sessions: Sessions


def merge_partials(left: Partial, right: Partial) -> Partial:
    """Both, combined; of one gap."""
    return Partial(left.gap_ms, merge_sessions(left.sessions, right.sessions, left.gap_ms))


def consistent(partial: Partial) -> bool:
    """Whether the fields agree with each other, as those of every partial written here do."""
    gap, at = partial.gap_ms, -partial.gap_ms - 1
    for each in partial.sessions:
        start, end, count = each.start, each.end, each.count
        if start <= at + gap or end < start:
            return False
        if not 0 < count <= COUNT_MAX or each.pages > count:
            return False
        if each.closed or each.number or not 0 < len(each.lanes) <= ROW_LANES_MAX:
            return False
        for times in each.steps:
            if len(times) > 2 * EDGE or list(times) != sorted(set(times)):
                return False
            if times and not (start <= times[0] and times[-1] <= end):
                return False
        at = end
    return bool(partial.sessions)
