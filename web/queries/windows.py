"""``GET /api/v1/windows/{name}`` and ``/{key}``: committed windows, from any worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from app.engine.chunks import LaneMark
from app.engine.query import NotOwnedError, NotReadyError, Owner, Queries
from tables.lanes import LANES_TABLE
from tables.windows.answer import State, WindowAnswer, window_answer
from tables.windows.finals import FINALS_TABLE
from tables.windows.keys import fits, key_prefix
from tables.windows.spec import WindowSpec
from web.peers import PeerAnswer, PeerError, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.panes import lane_marks, newest_panes, newest_windows, revisions
from web.queries.params import (
    Consistency,
    encode_cursor,
    parse_consistency,
    parse_cursor,
    parse_limit,
    parse_range,
    parse_state,
)
from web.queries.rows import KeyRow, OpenTable, has_key, in_slices, latest_rows
from web.queries.scatter import (
    HOP_TIMEOUT_S,
    PARTIALS_TOPIC,
    gather,
    is_forwarded,
    local_partitions,
    moving,
    restoring,
)
from web.queries.times import TimeRange

PATH: Final = "/api/v1/windows"


class ListedKey(msgspec.Struct, frozen=True):
    """A key with its newest window."""

    key: str
    window: WindowAnswer
    partition: int
    worker: str


class _Page(msgspec.Struct, frozen=True):
    """What is read of another worker's list."""

    keys: list[ListedKey]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question for one key's windows."""

    spec: WindowSpec
    key: str
    wanted: TimeRange
    consistency: Consistency
    state: State | None
    forwarded: bool

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
    ) -> None:
        """``clock`` gives epoch milliseconds, from which relative times count."""
        self._clock = clock
        self._queries = queries
        self._peers = peers
        self._specs = {spec.name: spec for spec in windows}

    async def one(self, request: web.Request) -> web.Response:
        """Windows of one key; ``from``/``to`` bound their starts, else the newest 1 440.

        ``state`` keeps those that are open, closed or final of these.
        A key that is not found as it stands is looked for with a leading slash, so that a
        path may be appended to the address without encoding it. With ``consistency=stale``
        a standby may answer; the answer then says from what role, position and age.
        """
        spec = self._spec(request)
        asked = _Asked(
            spec,
            request.match_info["key"],
            parse_range(request.query, spec.advance_ms, self._clock()),
            parse_consistency(request.query),
            parse_state(request.query),
            is_forwarded(request, self._queries),
        )
        key = asked.key
        also = [] if asked.forwarded or key.startswith("/") else [f"/{key}"]
        for candidate in [key, *also]:
            answer = await self._ask(replace(asked, key=candidate))
            if answer is not None:
                return answer
        raise ProblemError(Kind.NOT_FOUND, f"window {spec.name} has no key {key[:200]!r}")

    async def page(self, request: web.Request) -> web.Response:
        """Keys with their newest window over all partitions, a page at a time."""
        spec = self._spec(request)
        limit, after = parse_limit(request.query), parse_cursor(request.query)
        forwarded = is_forwarded(request, self._queries)
        missing: list[str] = []
        listed = await self._local_page(spec, limit + 1, after, missing)
        more = False
        if not forwarded:
            cursor = {} if after is None else {"cursor": encode_cursor(after)}
            query = urlencode({"limit": str(limit)} | cursor)
            others = await gather(
                self._queries, self._peers, f"{PATH}/{spec.name}?{query}", _page_of
            )
            missing += others.missing
            listed += [each for page in others.answers for each in page.keys]
            more = any(page.cursor is not None for page in others.answers)
        by_key = {each.key: each for each in listed}
        ordered = sorted(by_key.values(), key=lambda each: key_prefix(each.key))
        page, more = ordered[:limit], more or len(ordered) > limit
        return json_response(
            {
                "name": spec.name,
                "size_ms": spec.size_ms,
                "advance_ms": spec.advance_ms,
                "keys": page,
                "cursor": encode_cursor(page[-1].key) if more and page else None,
                "partial": bool(missing),
                "missing": missing,
            }
        )

    def _spec(self, request: web.Request) -> WindowSpec:
        name = request.match_info["name"]
        spec = self._specs.get(name)
        if spec is None:
            known = ", ".join(sorted(self._specs)) or "none"
            raise ProblemError(Kind.NOT_FOUND, f"no window is named {name[:64]!r}; known: {known}")
        return spec

    async def _ask(self, asked: _Asked) -> web.Response | None:
        """The answer of whoever owns the key; None: the owner does not have it."""
        if not fits(asked.key):
            return None
        owner = self._queries.owner(PARTIALS_TOPIC, asked.key.encode())
        if asked.consistency == "stale":
            return await self._ask_anyone(asked, owner)
        if owner.local:
            return await self._local(asked, owner.partition)
        if asked.forwarded or owner.url is None:
            raise moving()
        try:
            answer = await self._peers.get(owner.url, asked.path, HOP_TIMEOUT_S)
        except PeerError as exc:
            raise ProblemError(Kind.OWNER_UNREACHABLE, str(exc)) from exc
        return None if answer.status == Kind.NOT_FOUND.status else _passed_on(answer)

    async def _ask_anyone(self, asked: _Asked, owner: Owner) -> web.Response | None:
        """What is here, owned or standby; else the owner's answer, else that of a standby."""
        try:
            return await self._local(asked, owner.partition)
        except ProblemError as exc:
            if asked.forwarded:
                raise
            refused = exc
        urls = [] if owner.local or owner.url is None else [owner.url]
        urls += self._queries.standbys(PARTIALS_TOPIC, owner.partition)
        for url in dict.fromkeys(urls):
            try:
                answer = await self._peers.get(url, asked.path, HOP_TIMEOUT_S)
            except PeerError as exc:
                refused = ProblemError(Kind.OWNER_UNREACHABLE, str(exc))
                continue
            if answer.status != Kind.UNAVAILABLE.status:
                return None if answer.status == Kind.NOT_FOUND.status else _passed_on(answer)
        raise refused

    async def _local(self, asked: _Asked, partition: int) -> web.Response | None:
        spec, key = asked.spec, asked.key
        open_table = self._opener(partition, spec.name, asked.consistency)
        reading: dict[str, object] = {}
        try:
            if asked.consistency == "stale":
                # Read before the rows: they hold at least this much.
                replica = self._queries.replica(PARTIALS_TOPIC, partition)
                reading = {
                    "role": replica.role,
                    "position": replica.position,
                    "staleness_ms": replica.staleness_ms,
                }
            panes = await newest_panes(open_table, spec, key, asked.wanted)
            if not panes and not has_key(open_table(), key):
                return None
            lanes = self._opener(partition, LANES_TABLE, asked.consistency)
            marks = lane_marks(lanes(), [stats for _, stats in panes])
            found = await newest_windows(spec, panes, asked.wanted)
            finals = self._opener(partition, FINALS_TABLE, asked.consistency)
            written = revisions(finals(), spec, key, found)
            if not reading:
                reading["staleness_ms"] = self._queries.staleness_ms(PARTIALS_TOPIC, partition)
        except NotReadyError as exc:
            raise restoring(exc) from exc
        except NotOwnedError as exc:
            raise moving() from exc
        windows: list[WindowAnswer] = []
        async for window in in_slices(iter(found)):
            windows += window_answer(spec, [window], marks, written)
        if asked.state is not None:
            windows = [each for each in windows if each["state"] == asked.state]
        return json_response(
            {
                "name": spec.name,
                "key": key,
                "size_ms": spec.size_ms,
                "advance_ms": spec.advance_ms,
                "windows": windows,
                "partition": partition,
                "worker": self._queries.worker,
                **reading,
            }
        )

    def _opener(self, partition: int, table: str, consistency: Consistency = "owner") -> OpenTable:
        if consistency == "stale":
            return lambda: self._queries.replica(PARTIALS_TOPIC, partition).table(table)
        return lambda: self._queries.table(PARTIALS_TOPIC, partition, table)

    async def _local_page(
        self, spec: WindowSpec, limit: int, after: str | None, missing: list[str]
    ) -> list[ListedKey]:
        """Up to ``limit`` keys of this worker's partitions; a partition that leaves is missing."""
        partitions = local_partitions(self._queries)
        sources = [
            latest_rows(self._opener(partition, spec.name), partition, after)
            for partition in partitions
        ]
        rows: list[KeyRow] = []
        marks: dict[int, Mapping[str, LaneMark]] = {}
        try:
            async for row in in_slices(merge(*sources, key=lambda row: key_prefix(row.key))):
                rows.append(row)
                if len(rows) >= limit:
                    break
            for partition in {row.partition for row in rows}:
                of_partition = [row.stats for row in rows if row.partition == partition]
                table = self._opener(partition, LANES_TABLE)()
                marks[partition] = lane_marks(table, of_partition)
        except NotReadyError as exc:
            raise restoring(exc) from exc
        except NotOwnedError:
            missing.append(self._queries.worker)
        listed: list[ListedKey] = []
        async for row in in_slices(iter(rows)):
            known = marks.get(row.partition, {})
            (window,) = window_answer(spec, [(row.start_ms, row.stats)], known)
            listed.append(ListedKey(row.key, window, row.partition, self._queries.worker))
        return listed


def _page_of(body: bytes) -> _Page:
    return msgspec.json.decode(body, type=_Page)


def _passed_on(answer: PeerAnswer) -> web.Response:
    headers = {} if answer.retry_after is None else {"Retry-After": answer.retry_after}
    return web.Response(
        body=answer.body,
        status=answer.status,
        content_type=answer.content_type,
        headers=headers,
    )
