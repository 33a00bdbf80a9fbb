"""``GET /api/v1/sessions/{userId}`` and ``/active/{userId}``: asked of the user's owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from aiohttp import web

from app.engine.lanes import NO_WATERMARK
from app.engine.query import Queries
from app.models.rules import KEY_MAX
from tables.lanes import EVERY, LANES_TABLE
from tables.sessions.answer import (
    SessionAnswer,
    active_sessions,
    archived_answer,
    session_answer,
    spanned,
)
from tables.sessions.rows import UserSessions
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Session
from tables.sessions.times import SOURCE_TOPIC
from web.peers import PeerAnswer, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.archive import Archive
from web.queries.asking import Question, ask, unavailable
from web.queries.params import encode_cursor, parse_consistency, parse_cursor, parse_limit
from web.queries.scatter import is_forwarded, passed_on
from web.queries.session_sums import PATH, SESSIONS_TOPIC, SessionSums, spec_of
from web.queries.times import TimeRange, parse_time_range, refusal
from web.queries.whence import Held, Whence

MARKS_MAX: Final = 1_024
COLD_MAX: Final = 50_000
"""Sessions of one user read from the history: years of half hours."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question about one user; ``again`` asks another worker the same."""

    spec: SessionSpec
    user: str
    again: Question


class _Page(NamedTuple):
    """Sessions to show, and where the next page begins."""

    sessions: list[SessionAnswer]
    cursor: str | None = None


class UserAnswer(Whence, frozen=True, kw_only=True):
    """Sessions of a user, oldest first; ``cursor`` null: there are no more."""

    user: str
    type: str
    sessions: list[SessionAnswer]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class SessionRoom:
    """The sessions' endpoints of one worker. ``clock`` gives epoch milliseconds."""

    queries: Queries
    specs: Sequence[SessionSpec]
    clock: Callable[[], int]
    archive: Archive

    def install(self, web_app: web.Application, peers: Peers) -> None:
        """Add the endpoints to a not yet started app."""
        asked = SessionQueries(self.queries, peers, self.specs, self.clock, self.archive)
        sums = SessionSums(self.queries, peers, self.specs, self.clock)
        web_app.add_routes(
            [
                # First: these names are no users.
                web.get(f"{PATH}/analytics", sums.handle),
                web.get(f"{PATH}/active/{{userId:.+}}", asked.active),
                web.get(f"{PATH}/{{userId:.+}}", asked.one),
            ]
        )


class SessionQueries:
    """Session endpoints of one worker: its own users, its peers' by one hop."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        specs: Sequence[SessionSpec],
        clock: Callable[[], int],
        archive: Archive,
    ) -> None:
        self._archive = archive
        self._queries = queries
        self._peers = peers
        self._specs = specs
        self._clock = clock

    async def active(self, request: web.Request) -> web.Response:
        """Open sessions of a user that were fed within ``active_ttl``; 404 when there are none."""
        asked = self._asked(request, f"{PATH}/active/", {})

        def page(row: UserSessions | None) -> _Page | None:
            sessions = () if row is None else active_sessions(asked.spec, row, self._clock())
            spec, user = asked.spec, asked.user
            shown = [session_answer(spec, user, each) for each in sessions]
            return _Page(shown) if shown else None

        async def here(partition: int) -> web.Response:
            return json_response(self._here(asked, partition, page))

        return await self._answer(asked, here)

    async def one(self, request: web.Request) -> web.Response:
        """Sessions of a user, oldest first; ``from`` and ``to`` bound their starts.

        At most ``limit``; ``cursor`` goes on. 404 for a user of whom nothing is kept. A range
        that begins before what state keeps spans state and history; each session says its
        ``source``. With ``consistency=stale`` a standby may answer; the answer then says from
        what role and position.
        """
        now_ms = self._clock()
        wanted = parse_time_range(request.query, now_ms)
        limit, after = parse_limit(request.query), _after(request.query)
        cursor = {} if after is None else {"cursor": encode_cursor(str(after))}
        asked = self._asked(request, f"{PATH}/", wanted.query() | {"limit": str(limit)} | cursor)

        def page(row: UserSessions | None, cold: Sequence[SessionAnswer]) -> _Page | None:
            spec, user = asked.spec, asked.user
            kept = () if row is None else row.sessions
            hot = [session_answer(spec, user, each) for each in kept]
            if not hot and not cold:
                return None
            found = _in_range(spanned(hot, cold), wanted, after)
            shown = found[:limit]
            more = encode_cursor(str(shown[-1].start)) if len(found) > limit else None
            return _Page(shown, more)

        async def here(partition: int) -> web.Response:
            cold: Sequence[SessionAnswer] = ()
            if wanted.from_ms is not None and wanted.from_ms < now_ms - asked.spec.retention_ms:
                self._held(asked, partition)  # or the history would be read for nothing
                cold = await self._cold(asked, wanted, now_ms)
            return json_response(self._here(asked, partition, lambda row: page(row, cold)))

        return await self._answer(asked, here)

    async def _cold(self, asked: _Asked, wanted: TimeRange, now_ms: int) -> list[SessionAnswer]:
        """Sessions of the range that the history has."""
        to_ms = now_ms + 1 if wanted.to_ms is None else wanted.to_ms
        found = await self._archive.sessions(
            asked.spec.name, asked.user, wanted.from_ms or 0, to_ms, COLD_MAX
        )
        return [archived_answer(each) for each in found]

    def _asked(self, request: web.Request, path: str, query: Mapping[str, str]) -> _Asked:
        user = request.match_info["userId"]
        if len(user) > KEY_MAX or not user.isprintable():
            raise refusal("userId", f"expected 1 to {KEY_MAX} printable characters")
        spec = spec_of(self._specs, request.query)
        consistency = parse_consistency(request.query)
        given = urlencode({"type": spec.name, "consistency": consistency, **query})
        again = Question(
            SESSIONS_TOPIC,
            user.encode(),
            f"{path}{quote(user, safe='')}?{given}",
            consistency,
            is_forwarded(request, self._queries),
        )
        return _Asked(spec, user, again)

    async def _answer(
        self, asked: _Asked, here: Callable[[int], Awaitable[web.Response]]
    ) -> web.Response:
        answer = await ask(self._queries, self._peers, asked.again, here)
        return passed_on(answer) if isinstance(answer, PeerAnswer) else answer

    def _held(self, asked: _Asked, partition: int) -> Held:
        with unavailable():
            return Held(self._queries, SESSIONS_TOPIC, partition, asked.again.consistency)

    def _here(
        self, asked: _Asked, partition: int, page: Callable[[UserSessions | None], _Page | None]
    ) -> UserAnswer:
        """What this worker has; None of ``page``: there is nothing."""
        spec, user = asked.spec, asked.user
        held = self._held(asked, partition)
        with unavailable():
            row: UserSessions | None = held.table(spec.table_name).get(user.encode())
            shown = page(row)
            if shown is None:
                raise ProblemError(
                    Kind.NOT_FOUND, f"no {spec.name} session of {user[:200]!r} is here"
                )
            watermark_ms = self._watermark_ms(held, () if row is None else row.sessions)
        return UserAnswer(
            user=user,
            type=spec.name,
            sessions=shown.sessions,
            cursor=shown.cursor,
            **held.figures(watermark_ms),
        )

    def _watermark_ms(self, held: Held, sessions: Sequence[Session]) -> int | None:
        """How far the lanes that feed the user have come at least.

        None: all of them are silent, or one was never heard of.
        """
        table = held.table(LANES_TABLE)
        lanes = sorted({lane for each in sessions for lane in each.lanes if lane not in EVERY})
        sources = range(len(self._queries.owners(SOURCE_TOPIC)))
        keys = [f"{source}/{lane}".encode() for lane in lanes for source in sources][:MARKS_MAX]
        marks = (table.get(key) for key in keys)
        awake = (mark.watermark_ms for mark in marks if mark is not None and not mark.idle)
        least = min(awake, default=NO_WATERMARK)
        return None if least == NO_WATERMARK else least


def _after(query: Mapping[str, str]) -> int | None:
    text = parse_cursor(query)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise refusal("cursor", "expected the cursor of the page before, as it was given")
    return int(text)


def _in_range(
    sessions: Sequence[SessionAnswer], wanted: TimeRange, after: int | None
) -> list[SessionAnswer]:
    low = max(wanted.from_ms or 0, 0 if after is None else after + 1)
    return [
        each
        for each in sessions
        if each.start >= low and (wanted.to_ms is None or each.start < wanted.to_ms)
    ]
