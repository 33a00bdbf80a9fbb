"""``GET /api/v1/windows/{name}``: keys with their newest window, over all workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.engine.query import NotOwnedError, NotReadyError, Queries
from tables.lanes import LANES_TABLE
from tables.windows.answer import WindowAnswer, window_answer
from tables.windows.finals import FINALS_TABLE
from tables.windows.keys import key_prefix
from tables.windows.spec import WindowSpec
from web.peers import Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.panes import lane_marks, what_was_written
from web.queries.params import encode_cursor, parse_cursor, parse_limit
from web.queries.rows import KeyRow, OpenTable, in_slices, latest_rows
from web.queries.scatter import PARTIALS_TOPIC, gather, is_forwarded, local_partitions

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
    missing: list[str]


def named_spec(specs: Mapping[str, WindowSpec], request: web.Request) -> WindowSpec:
    """The window the path names; 404 for one that is not declared."""
    name = request.match_info["name"]
    spec = specs.get(name)
    if spec is None:
        known = ", ".join(sorted(specs)) or "none"
        raise ProblemError(Kind.NOT_FOUND, f"no window is named {name[:64]!r}; known: {known}")
    return spec


class WindowPages:
    """Lists of keys: this worker's, and those of the others by one hop."""

    def __init__(self, queries: Queries, peers: Peers, windows: Sequence[WindowSpec]) -> None:
        self._queries = queries
        self._peers = peers
        self._specs = {spec.name: spec for spec in windows}

    async def page(self, request: web.Request) -> web.Response:
        """Keys with their newest window over all partitions, a page at a time."""
        spec = named_spec(self._specs, request)
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
            missing += (name for page in others.answers for name in page.missing)
            listed += [each for page in others.answers for each in page.keys]
            more = any(page.cursor is not None for page in others.answers)
        by_key = {each.key: each for each in listed}
        ordered = sorted(by_key.values(), key=lambda each: key_prefix(each.key))
        page, more = ordered[:limit], more or len(ordered) > limit
        missing = sorted({*missing})
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

    async def _local_page(
        self, spec: WindowSpec, limit: int, after: str | None, missing: list[str]
    ) -> list[ListedKey]:
        """Up to ``limit`` keys of this worker's partitions, those of one moving missing."""
        sources = [
            self._rows(spec, partition, after, missing)
            for partition in local_partitions(self._queries)
        ]
        rows: dict[int, list[KeyRow]] = {}
        found = 0
        async for row in in_slices(merge(*sources, key=lambda row: key_prefix(row.key))):
            rows.setdefault(row.partition, []).append(row)
            found += 1
            if found >= limit:
                break
        listed: list[ListedKey] = []
        for partition, of_partition in rows.items():
            try:
                listed += await self._told(spec, partition, of_partition)
            except (NotReadyError, NotOwnedError):
                missing.append(self._queries.worker)
        return listed

    def _rows(
        self, spec: WindowSpec, partition: int, after: str | None, missing: list[str]
    ) -> Iterator[KeyRow]:
        """Keys of a partition with their newest row; missing while it moves or is restored."""
        try:
            yield from latest_rows(self._opener(partition, spec.name), partition, after)
        except (NotReadyError, NotOwnedError):
            missing.append(self._queries.worker)

    async def _told(
        self, spec: WindowSpec, partition: int, rows: Sequence[KeyRow]
    ) -> list[ListedKey]:
        marks = lane_marks(self._opener(partition, LANES_TABLE)(), (row.stats for row in rows))
        listed: list[ListedKey] = []
        async for row in in_slices(iter(rows)):
            read = [(row.start_ms, row.stats)]
            finals = self._opener(partition, FINALS_TABLE)()
            written = what_was_written(finals, spec, row.key, read)
            (window,) = window_answer(spec, read, marks, written)
            listed.append(ListedKey(row.key, window, partition, self._queries.worker))
        return listed

    def _opener(self, partition: int, table: str) -> OpenTable:
        return lambda: self._queries.table(PARTIALS_TOPIC, partition, table)


def _page_of(body: bytes) -> _Page:
    return msgspec.json.decode(body, type=_Page)
