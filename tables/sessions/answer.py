"""What a query hears of sessions and of their sums. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from tables.history.datasets import ArchivedSession
from tables.history.span import Place
from tables.sessions.funnel import depth
from tables.sessions.rows import UserSessions, session_id
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Session
from tables.sessions.stats import SessionStats


class SessionAnswer(msgspec.Struct, frozen=True):
    """One session. Times are epoch ms, both ends inclusive.

    ``steps`` are the steps of the funnel taken one after the other. A session is open until
    it was closed, and again from an event that changes it until that is said; ``revision``
    is the last that was said, 0 if none. ``updated_ms`` is when its latest event came.
    """

    id: str
    start: int
    end: int
    duration_ms: int
    count: int
    pages: int
    steps: tuple[str, ...]
    converted: bool
    state: Literal["open", "closed"]
    revision: int
    updated_ms: int | None
    source: Place = "hot"


def session_answer(spec: SessionSpec, user: str, session: Session) -> SessionAnswer:
    """The answer for one session of a user."""
    taken = depth(session.steps)
    return SessionAnswer(
        session_id(spec.fingerprint, user, session.start, session.number),
        session.start,
        session.end,
        session.end - session.start,
        session.count,
        session.pages,
        spec.steps[:taken],
        bool(spec.steps) and taken == len(spec.steps),
        "closed" if session.settled else "open",
        max((each.revision for each in session.closed), default=0),
        session.updated_ms,
    )


def archived_answer(session: ArchivedSession) -> SessionAnswer:
    """The answer for a session as its last record told it."""
    return SessionAnswer(
        session.id,
        session.start,
        session.end,
        session.duration_ms,
        session.count,
        session.pages,
        tuple(session.steps),
        session.converted,
        "closed",
        session.revision,
        None,
        "cold",
    )


def spanned(hot: Sequence[SessionAnswer], cold: Sequence[SessionAnswer]) -> list[SessionAnswer]:
    """Both, oldest first; a cold session that a hot one has swallowed is left out."""
    apart = [each for each in cold if not any(held.start <= each.start <= held.end for held in hot)]
    return sorted([*hot, *apart], key=lambda each: (each.start, each.id))


def active_sessions(spec: SessionSpec, row: UserSessions, now_ms: int) -> tuple[Session, ...]:
    """Sessions that are open and were fed within the active time-to-live."""
    return tuple(
        each
        for each in row.sessions
        if not each.settled and now_ms - each.updated_ms < spec.active_ttl_ms
    )


class Bucket(msgspec.Struct, frozen=True):
    """Sums over the closed sessions that began in one hour (``start``, epoch ms)."""

    start: int
    sessions: int
    events: int
    pages: int
    duration_ms: int
    reached: tuple[int, ...]
    """sessions that took at least the first, the first two, ... steps of the funnel"""
    converted: int
    avg_duration_ms: float | None
    conversion_rate: float | None


def bucket_answer(spec: SessionSpec, start: int, stats: SessionStats) -> Bucket:
    """The answer for one hour, or for all of them together."""
    steps = len(spec.steps)
    reached = (*stats.reached, *(0,) * steps)[:steps]
    converted = reached[-1] if reached else 0
    some = stats.sessions > 0
    return Bucket(
        start,
        stats.sessions,
        stats.events,
        stats.pages,
        stats.duration_ms,
        reached,
        converted,
        stats.duration_ms / stats.sessions if some else None,
        converted / stats.sessions if some and steps else None,
    )


def sums_of(buckets: Iterable[Bucket]) -> dict[int, SessionStats]:
    """Sums by hour of an answer."""
    return {
        each.start: SessionStats(
            each.sessions, each.events, each.pages, each.duration_ms, each.reached
        )
        for each in buckets
    }
