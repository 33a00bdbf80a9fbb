"""When a user's sessions open, close and leave, and what is then said of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import structs

from app.engine.lanes import LIVE
from tables.lanes import EVERY, LaneTimes
from tables.sessions.funnel import depth
from tables.sessions.rows import EMPTY, SESSIONS_MAX, UserSessions, session_id
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Closed, Session, Sessions, merge_sessions
from tables.sessions.stats import StatsChange
from tables.sessions.times import reached_ms, slowest
from tables.timers import Timer


class ClosedSession(msgspec.Struct, frozen=True):
    """A record of ``sessions-closed``: what is now held of a session. Times are epoch ms.

    ``steps`` are the steps taken one after the other. A session that events made longer, or
    joined with others, is said again with the next ``revision``; ``supersedes`` are the ids
    that no longer stand for a session of their own.
    """

    id: str
    type: str
    user: str
    start: int
    end: int
    count: int
    pages: int
    steps: tuple[str, ...]
    converted: bool
    revision: int
    supersedes: tuple[str, ...]
    duration_ms: int


encode_closed: Callable[[ClosedSession], bytes] = msgspec.json.Encoder().encode


def due_ms(spec: SessionSpec, session: Session) -> int:
    """Stream time at which a session is over: more than the gap beyond its end."""
    return session.end + spec.gap_ms + 1


def timer_payload(spec: SessionSpec, user: bytes) -> bytes:
    """Names a row to the tick: eight bytes for the kind of session, then the user."""
    return spec.fingerprint + user


def parse_payload(raw: bytes) -> tuple[bytes, bytes]:
    """Fingerprint and user of a timer."""
    return raw[:8], raw[8:]


@dataclass(slots=True)
class Change:
    """What a batch or tick does to sessions: rows, timers, sums and what is said."""

    stats: StatsChange
    rows: dict[str, dict[bytes, UserSessions]] = field(default_factory=dict)
    timers: list[Timer] = field(default_factory=list)
    said: list[ClosedSession] = field(default_factory=list)

    def take_in(
        self, spec: SessionSpec, user: bytes, held: UserSessions | None, fresh: Sessions
    ) -> None:
        """Merge fresh sessions into a user's row.

        An open session has a timer no later than its end: the one of when it opened, which
        is set again when it fires early. So an event that makes a session longer sets none.
        """
        before = EMPTY if held is None else held
        merged = merge_sessions(before.sessions, fresh, spec.gap_ms)
        if before.left:
            merged = _numbered(before, merged)
        if len(merged) == len(before.sessions) == 1 and not before.sessions[0].closed:
            self._put(spec, user, before, merged)  # as below, for what nearly every user does
            return
        waiting = [each for each in before.sessions if not each.settled]
        opened = 0
        for each in merged:
            if each.settled:
                continue
            opened += 1
            if not any(each.start <= other.start <= each.end for other in waiting):
                lane = next(part.lanes[0] for part in fresh if each.start <= part.start <= each.end)
                self._set(lane, spec, each, user)
        excess = len(merged) - SESSIONS_MAX
        if excess > 0:
            for each in merged[:excess]:
                if not each.settled:
                    opened -= 1
                    self._close(spec, user, each)
            last = max(before.left_ms, merged[excess - 1].end)
            before = structs.replace(before, left=before.left + excess, left_ms=last)
            merged = merged[excess:]
        self.stats.opened(spec.fingerprint, opened - len(waiting))
        self._put(spec, user, before, merged)

    def fire(self, spec: SessionSpec, user: bytes, held: UserSessions, times: LaneTimes) -> None:
        """Close what is over in a user's row; set the timer again of what is not."""
        sessions: list[Session] = []
        closed = 0
        for each in held.sessions:
            session = each
            if not each.settled:
                if reached_ms(times, each.lanes) >= due_ms(spec, each):
                    session = self._close(spec, user, each)
                    closed += 1
                else:
                    self._set(slowest(times, each.lanes), spec, each, user)
            sessions.append(session)
        if closed:
            self.stats.opened(spec.fingerprint, -closed)
            self._put(spec, user, held, tuple(sessions))

    def keep(self, spec: SessionSpec, user: bytes, held: UserSessions, kept: Sessions) -> None:
        """Let the others leave a user's row."""
        gone = len(held.sessions) - len(kept) if held.left else 0
        self._put(spec, user, structs.replace(held, left=held.left + gone), kept)

    def _put(self, spec: SessionSpec, user: bytes, held: UserSessions, now: Sessions) -> None:
        row = UserSessions(held.version + 1, now, held.left, held.left_ms)
        self.rows.setdefault(spec.table_name, {})[user] = row

    def _set(self, lane: str, spec: SessionSpec, session: Session, user: bytes) -> None:
        lane = LIVE if lane in EVERY else lane
        self.timers.append(Timer(lane, due_ms(spec, session), timer_payload(spec, user)))

    def _close(self, spec: SessionSpec, user: bytes, session: Session) -> Session:
        """The session with what is said of it from now on; its sums are corrected."""
        before = session.closed
        now = Closed(
            session.start,
            session.end,
            session.count,
            session.pages,
            depth(session.steps),
            1 + max((each.revision for each in before), default=0),
            session.number,
        )
        self.stats.closed(spec.fingerprint, now, before)
        self.said.append(closed_session(spec, user.decode(), now, before))
        return structs.replace(session, closed=(now,))


def _numbered(held: UserSessions, merged: Sessions) -> Sessions:
    """Sessions that begin where others have left the row, told apart from those."""
    known = {each.start for each in held.sessions}
    return tuple(
        each
        if each.start > held.left_ms or each.start in known
        else structs.replace(each, number=held.left)
        for each in merged
    )


def closed_session(
    spec: SessionSpec, user: str, now: Closed, before: Iterable[Closed] = ()
) -> ClosedSession:
    """What is said of a session; ``before``: what had been said of its parts."""
    steps = spec.steps
    return ClosedSession(
        session_id(spec.fingerprint, user, now.start, now.number),
        spec.name,
        user,
        now.start,
        now.end,
        now.count,
        now.pages,
        steps[: now.depth],
        bool(steps) and now.depth == len(steps),
        now.revision,
        tuple(
            session_id(spec.fingerprint, user, e.start, e.number)
            for e in before
            if (e.start, e.number) != (now.start, now.number)
        ),
        now.end - now.start,
    )


def kept_sessions(spec: SessionSpec, held: UserSessions, times: LaneTimes, now_ms: int) -> Sessions:
    """What stays of a row at ``now_ms``.

    A session leaves when it is closed, its retention is over, and its lanes are so far
    beyond it that any event that could join it would be late.
    """
    return tuple(
        each
        for each in held.sessions
        if not each.settled
        or now_ms - each.updated_ms < spec.retention_ms
        or reached_ms(times, each.lanes) <= each.end + spec.mergeable_ms
    )
