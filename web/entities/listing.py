"""``GET /api/v1/entities/{type}``: live entities in order of their ids, over all partitions.

Partitions, and then workers, each give a :class:`Page`: rows in order of the key, and how
far they looked. Pages are merged up to the nearest place where one of them ended, so that
a page that ended early (its bytes, or many tombstones) hides nothing that comes before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.entities.spec import EntitySpec, EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState
from web.entities.asked import PAGE_BYTES_MAX, PATH, SLICE, known_type
from web.entities.gateway import TOPIC
from web.peers import Peers
from web.problem import json_response
from web.queries.params import encode_cursor, parse_cursor, parse_limit
from web.queries.scatter import gather, is_forwarded, local_partitions
from web.queries.whence import Held, Spread, Spreading, leaving

ROWS_READ_MAX: Final = 5_000
"""Rows looked at in one partition for one page, tombstones among them."""


class Listed(msgspec.Struct, frozen=True):
    """A live entity and where it is."""

    id: str
    state: str
    version: int
    updated_at: int
    attributes: msgspec.Raw
    partition: int
    worker: str


@dataclass(frozen=True, slots=True)
class Page:
    """``rows`` in order of ``id`` bytes; ``through``: the last id looked at, None: all."""

    rows: Sequence[Listed]
    through: str | None


class EntityList(Spread, frozen=True, kw_only=True):
    """Live entities of a type in order of their ids; ``cursor`` null: there are no more.

    There is no watermark: entities go by versions, not by event time.
    """

    type: str
    entities: Sequence[Listed]
    cursor: str | None


def _order(entity_id: str) -> bytes:
    return entity_id.encode()


def merged(pages: Iterable[Page], limit: int) -> Page:
    """One page of all: at most ``limit`` rows and :data:`PAGE_BYTES_MAX`, none left out."""
    pages = list(pages)
    ends = [page.through for page in pages if page.through is not None]
    end = min(ends, key=_order, default=None)
    newest: dict[str, Listed] = {}
    for page in pages:
        for row in page.rows:
            held = newest.get(row.id)
            # Two workers may speak for one partition while it moves.
            if held is None or row.version > held.version:
                newest[row.id] = row
    found: list[Listed] = []
    size = 0
    for row in sorted(newest.values(), key=lambda row: _order(row.id)):
        if end is not None and _order(row.id) > _order(end):
            break
        size += len(row.attributes)
        if len(found) == limit or (size > PAGE_BYTES_MAX and found):
            end = found[-1].id
            break
        found.append(row)
    return Page(found, end)


class EntityLists:
    """Lists of one worker: its own partitions, and its peers' by one hop."""

    def __init__(self, queries: Queries, peers: Peers, specs: EntitySpecs) -> None:
        self._queries = queries
        self._peers = peers
        self._specs = specs

    async def page(self, request: web.Request) -> web.Response:
        """Up to ``limit`` live entities after the ``cursor``; ``partial`` names who is missing.

        A page may be shorter than its limit, even empty: only a null cursor ends the list.
        """
        spec = known_type(self._specs, request)
        limit, after = parse_limit(request.query), parse_cursor(request.query)
        forwarded = is_forwarded(request, self._queries)
        spread = Spreading(self._queries.worker)
        pages = [await self._local(spec, limit, after, spread)]
        if not forwarded:
            cursor = {} if after is None else {"cursor": encode_cursor(after)}
            query = urlencode({"limit": str(limit)} | cursor)
            path = f"{PATH}/{spec.type}?{query}"
            others = await gather(self._queries, self._peers, path, _list_of, TOPIC)
            spread.miss(others.missing)
            for told, page in others.answers:
                spread.add(told)
                pages.append(page)
        page = merged(pages, limit)
        return json_response(
            EntityList(
                type=spec.type,
                entities=page.rows,
                cursor=None if page.through is None else encode_cursor(page.through),
                **spread.figures(),
            )
        )

    async def _local(
        self, spec: EntitySpec, limit: int, after: str | None, spread: Spreading
    ) -> Page:
        """This worker's partitions; one that moves or is being restored is missing."""
        page = Page((), None)
        for partition in local_partitions(self._queries, TOPIC):
            with leaving(spread):
                held = Held(self._queries, TOPIC, partition)
                page = merged([page, await self._scan(held, spec, partition, limit, after)], limit)
                spread.hold(held.figures(None))
        return page

    async def _scan(
        self, held: Held, spec: EntitySpec, partition: int, limit: int, after: str | None
    ) -> Page:
        prefix, past = f"{spec.type}:".encode(), f"{spec.type};".encode()
        lo = prefix if after is None else prefix + after.encode() + b"\0"
        found: list[Listed] = []
        size = 0
        for _ in range(ROWS_READ_MAX // SLICE):
            rows = list(held.table(ENTITIES_TABLE).range(lo, past, limit=SLICE))
            for key, state in rows:
                entity_id = key[len(prefix) :].decode()
                if not state.deregistered:
                    found.append(self._listed(entity_id, state, partition))
                    size += len(state.attributes)
                if len(found) == limit or size > PAGE_BYTES_MAX:
                    return Page(found, entity_id)
                lo = key + b"\0"
            if len(rows) < SLICE:
                return Page(found, None)
            await asyncio.sleep(0)
        return Page(found, lo[len(prefix) : -1].decode())

    def _listed(self, entity_id: str, state: EntityState, partition: int) -> Listed:
        return Listed(
            entity_id,
            "active",
            state.version,
            state.timestamp,
            msgspec.Raw(state.attributes),
            partition,
            self._queries.worker,
        )


def _list_of(body: bytes) -> tuple[Spread, Page]:
    answer = msgspec.json.decode(body, type=EntityList)
    through = parse_cursor({} if answer.cursor is None else {"cursor": answer.cursor})
    return answer, Page(answer.entities, through)
