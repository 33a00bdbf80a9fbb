"""``GET /api/v1/windows/{name}``: keys with their newest window, over all workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.lanes import LANES_TABLE
from tables.windows.answer import WindowAnswer, watermark_by_marks, window_answer
from tables.windows.finals import FINALS_TABLE, Written, final_key
from tables.windows.keys import key_prefix
from tables.windows.spec import WindowSpec
from web.peers import Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.panes import lane_marks
from web.queries.params import encode_cursor, parse_cursor, parse_limit
from web.queries.rows import KeyRow, in_slices, latest_rows
from web.queries.scatter import PARTIALS_TOPIC, gather, is_forwarded, local_partitions
from web.queries.whence import Held, Marks, Spread, Spreading, leaving, marks_before

PATH: Final = "/api/v1/windows"


class ListedKey(msgspec.Struct, frozen=True):
    """A key with its newest window."""

    key: str
    window: WindowAnswer
    partition: int
    worker: str


class WindowList(Spread, frozen=True, kw_only=True):
    """Keys with their newest window, in a stable order; ``cursor`` null: there are no more."""

    name: str
    size_ms: int
    advance_ms: int
    keys: list[ListedKey]
    cursor: str | None


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
        spread = Spreading(self._queries.worker)
        listed = await self._local_page(spec, limit + 1, after, spread)
        more = False
        if not forwarded:
            cursor = {} if after is None else {"cursor": encode_cursor(after)}
            query = urlencode({"limit": str(limit)} | cursor)
            others = await gather(
                self._queries, self._peers, f"{PATH}/{spec.name}?{query}", _list_of
            )
            spread.miss(others.missing)
            for other in others.answers:
                spread.add(other)
                listed += other.keys
                more |= other.cursor is not None
        by_key = {each.key: each for each in listed}
        ordered = sorted(by_key.values(), key=lambda each: key_prefix(each.key))
        page, more = ordered[:limit], more or len(ordered) > limit
        return json_response(
            WindowList(
                name=spec.name,
                size_ms=spec.size_ms,
                advance_ms=spec.advance_ms,
                keys=page,
                cursor=encode_cursor(page[-1].key) if more and page else None,
                **spread.figures(),
            )
        )

    async def _local_page(
        self, spec: WindowSpec, limit: int, after: str | None, spread: Spreading
    ) -> list[ListedKey]:
        """Up to ``limit`` keys of this worker's partitions; one that moves is missing."""
        held: dict[int, Held] = {}
        marks: dict[int, Marks] = {}
        for partition in local_partitions(self._queries):
            with leaving(spread):
                of_partition = Held(self._queries, PARTIALS_TOPIC, partition)
                marks[partition] = marks_before(of_partition.table(LANES_TABLE))
                held[partition] = of_partition
        sources = [_rows(each, partition, spec, after, spread) for partition, each in held.items()]
        rows: dict[int, list[KeyRow]] = {partition: [] for partition in held}
        found = 0
        async for row in in_slices(merge(*sources, key=lambda row: key_prefix(row.key))):
            rows[row.partition].append(row)
            found += 1
            if found >= limit:
                break
        listed: list[ListedKey] = []
        for partition, found_rows in rows.items():
            with leaving(spread):
                told, watermark_ms = await self._told(
                    spec, held[partition], marks[partition], found_rows
                )
                spread.hold(held[partition].figures(watermark_ms))
                listed += told
        return listed

    async def _told(
        self, spec: WindowSpec, held: Held, before: Marks, rows: Sequence[KeyRow]
    ) -> tuple[list[ListedKey], int | None]:
        """The rows' windows, and how far the lanes that fed them have come at least."""
        marks = lane_marks(before, held.table(LANES_TABLE), (row.stats for row in rows))
        listed: list[ListedKey] = []
        async for row in in_slices(iter(rows)):
            written: dict[int, Written] = {}
            if spec.closes:
                place = final_key(spec.name, row.key, row.start_ms)
                found: Written | None = held.table(FINALS_TABLE).get(place)
                written = {} if found is None else {row.start_ms: found}
            (window,) = window_answer(spec, [(row.start_ms, row.stats)], marks, written)
            listed.append(ListedKey(row.key, window, row.partition, self._queries.worker))
        return listed, watermark_by_marks({row.stats.lanes for row in rows}, marks)


def _rows(
    held: Held, partition: int, spec: WindowSpec, after: str | None, spread: Spreading
) -> Iterator[KeyRow]:
    """Keys of a partition with their newest row; missing when it leaves meanwhile."""
    with leaving(spread):
        yield from latest_rows(held.opener(spec.name), partition, after)


def _list_of(body: bytes) -> WindowList:
    return msgspec.json.decode(body, type=WindowList)
