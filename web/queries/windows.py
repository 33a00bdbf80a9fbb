"""``GET /api/v1/windows/{name}`` and ``/{key}``: committed windows, from any worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from app.engine.query import NotOwnedError, NotReadyError, Queries
from tables.lanes import LANES_TABLE
from tables.windows.answer import State, WindowAnswer, watermark_by_marks, window_answer
from tables.windows.finals import FINALS_TABLE
from tables.windows.keys import fits
from tables.windows.spec import WindowSpec
from web.peers import PeerAnswer, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.archive import SPAN_MAX, Archive, KeyWindows, in_parts, reaches_back
from web.queries.asking import Question, ask, unavailable
from web.queries.panes import lane_marks, newest_windows, what_was_written
from web.queries.params import (
    Consistency,
    parse_consistency,
    parse_range,
    parse_state,
    within,
)
from web.queries.rows import OpenTable, has_key, parts
from web.queries.scatter import PARTIALS_TOPIC, is_forwarded, passed_on
from web.queries.times import TimeRange, parse_time_range
from web.queries.whence import Held, marks_before
from web.queries.window_pages import PATH, named_spec


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question for one key's windows."""

    spec: WindowSpec
    key: str
    wanted: TimeRange
    consistency: Consistency
    state: State | None
    forwarded: bool
    back: bool
    """whether the range reaches into the history; told once, as time goes on"""

    @property
    def path(self) -> str:
        """The same question to another worker."""
        query = self.wanted.query() | {"consistency": self.consistency}
        if self.state is not None:
            query["state"] = self.state
        return f"{PATH}/{self.spec.name}/{quote(self.key, safe='')}?{urlencode(query)}"


class WindowQueries:
    """Window endpoints of one worker: its own rows, its peers' by one hop."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        windows: Sequence[WindowSpec],
        clock: Callable[[], int],
        archive: Archive,
    ) -> None:
        """``clock`` gives epoch milliseconds, from which relative times count."""
        self._clock = clock
        self._archive = archive
        self._queries = queries
        self._peers = peers
        self._specs = {spec.name: spec for spec in windows}

    async def one(self, request: web.Request) -> web.Response:
        """Windows of one key; ``from``/``to`` bound their starts, else the newest 1 440.

        A range that begins before what state holds spans state and history: each window
        then says its ``source``.
        ``state`` keeps those that are open, closed or final of these.
        A key that is not found as it stands is looked for with a leading slash, so that a
        path may be appended to the address without encoding it. With ``consistency=stale``
        a standby may answer; the answer then says from what role, position and age.
        """
        spec = named_spec(self._specs, request)
        now_ms = self._clock()
        wanted, back = _wanted(spec, request.query, now_ms)
        asked = _Asked(
            spec,
            request.match_info["key"],
            wanted,
            parse_consistency(request.query),
            parse_state(request.query),
            is_forwarded(request, self._queries),
            back,
        )
        key = asked.key
        also = [] if asked.forwarded or key.startswith("/") else [f"/{key}"]
        for candidate in [key, *also]:
            answer = await self._ask(replace(asked, key=candidate))
            if answer is not None:
                return answer
        raise ProblemError(Kind.NOT_FOUND, f"window {spec.name} has no key {key[:200]!r}")

    async def _ask(self, asked: _Asked) -> web.Response | None:
        """The answer of whoever owns the key; None: the owner does not have it."""
        if not fits(asked.key):
            return None
        question = Question(
            PARTIALS_TOPIC, asked.key.encode(), asked.path, asked.consistency, asked.forwarded
        )
        answer = await ask(
            self._queries, self._peers, question, lambda partition: self._local(asked, partition)
        )
        if not isinstance(answer, PeerAnswer):
            return answer
        return None if answer.status == Kind.NOT_FOUND.status else passed_on(answer)

    async def _local(self, asked: _Asked, partition: int) -> web.Response | None:
        spec, key = asked.spec, asked.key
        with unavailable():
            held = Held(self._queries, PARTIALS_TOPIC, partition, asked.consistency)
            before = marks_before(held.table(LANES_TABLE))
            open_table = held.opener(spec.name)
            found = await newest_windows(open_table, spec, key, asked.wanted)
            if not found and not asked.back and not has_key(open_table(), key):
                return None
            marks = lane_marks(before, held.table(LANES_TABLE), (stats for _, stats in found))
            windows: list[WindowAnswer] = []
            async for part in parts(found):
                written = what_was_written(held.table(FINALS_TABLE), spec, key, part)
                windows += window_answer(spec, part, marks, written)
        head = KeyWindows(
            name=spec.name,
            key=key,
            size_ms=spec.size_ms,
            advance_ms=spec.advance_ms,
            **held.figures(watermark_by_marks({stats.lanes for _, stats in found}, marks)),
        )
        if not asked.back:
            told = [each for each in windows if asked.state in (None, each.state)]
            return json_response(msgspec.structs.replace(head, windows=told))
        body, known = await self._archive.windows(head, asked.wanted, windows, asked.state)
        if not known and not self._knows(open_table, key):
            return None
        return in_parts(body)

    @staticmethod
    def _knows(open_table: OpenTable, key: str) -> bool:
        try:
            return has_key(open_table(), key)
        except (NotReadyError, NotOwnedError):
            return False  # it left meanwhile, and the history has no such key


def _wanted(spec: WindowSpec, query: Mapping[str, str], now_ms: int) -> tuple[TimeRange, bool]:
    """The range, and whether it reaches into the history: then it ends now at the latest."""
    given = parse_time_range(query, now_ms)
    if not reaches_back(spec, given, now_ms):
        return parse_range(query, spec.advance_ms, now_ms), False
    to_ms = now_ms + 1 if given.to_ms is None else given.to_ms
    return within(TimeRange(given.from_ms, to_ms), spec.advance_ms, SPAN_MAX), True
