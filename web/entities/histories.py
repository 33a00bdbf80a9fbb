"""``GET /api/v1/entities/{type}/{id}/history``: what led to an entity's state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
from aiohttp import web

from app.engine.query import Queries
from app.models.moments import EPOCH_MS_MAX
from tables.entities.history import HISTORY_TABLE, Change, history_bounds, parse_history_key
from tables.entities.spec import EntitySpecs
from tables.entities.state import ENTITIES_TABLE
from tables.history.span import Place
from web.entities.asked import PAGE_BYTES_MAX, SLICE, Asked, asked
from web.entities.gateway import TOPIC
from web.peers import PeerAnswer, Peers
from web.problem import json_response
from web.queries.archive import Archive
from web.queries.asking import ask, unavailable
from web.queries.params import KEYS_MAX, encode_cursor, parse_cursor, parse_limit
from web.queries.scatter import passed_on
from web.queries.times import TimeRange, parse_time_range, refusal
from web.queries.whence import Held, Whence


class EventAnswer(msgspec.Struct, frozen=True):
    """One event of an entity. ``applied`` false: a newer version was known by then."""

    offset: int
    op: str
    version: int
    timestamp: int
    event_id: str | None
    ingest_ts: int
    attributes: msgspec.Raw
    source: Place
    applied: bool | msgspec.UnsetType = msgspec.UNSET


class EntityEvents(Whence, frozen=True, kw_only=True):
    """Events of an entity, newest first; ``cursor`` null: there are no more."""

    type: str
    id: str
    events: Sequence[EventAnswer]
    cursor: str | None


class EntityHistories:
    """Histories of one worker: its own entities, and its peers' by one hop."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        specs: EntitySpecs,
        archive: Archive,
        clock: Callable[[], int],
    ) -> None:
        """``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._specs = specs
        self._archive = archive
        self._clock = clock

    async def page(self, request: web.Request) -> web.Response:
        """The newest events of an entity, newest first, a page at a time.

        ``from`` and ``to`` bound their timestamps. The last page (``cursor`` null) ends with the
        oldest event the table holds; with ``from``, older events of the archive follow on it,
        at most :data:`KEYS_MAX`. Each event says its ``source``.
        """
        entity = asked(self._specs, self._queries, request)
        limit, before = parse_limit(request.query), _before(request.query)
        wanted = parse_time_range(request.query, self._clock())
        cursor = {} if before is None else {"cursor": encode_cursor(str(before))}
        again = entity.again("/history", limit=str(limit), **cursor, **wanted.query())

        async def here(partition: int) -> EntityEvents:
            return await self._events(entity, partition, wanted, limit, before)

        answer = await ask(self._queries, self._peers, again, here)
        return passed_on(answer) if isinstance(answer, PeerAnswer) else json_response(answer)

    async def _events(
        self, entity: Asked, partition: int, wanted: TimeRange, limit: int, before: int | None
    ) -> EntityEvents:
        with unavailable():
            held = Held(self._queries, TOPIC, partition, entity.consistency)
            rows = await _newest(held, entity.key, wanted, limit + 1, before)
            known = held.table(ENTITIES_TABLE).get(entity.key) is not None
        page = _fitting(rows[:limit])
        last = len(page) == len(rows)
        events = [_event(change) for _, change in page]
        if last and wanted.from_ms is not None:
            events += await self._cold(entity, wanted, page[-1][1].offset if page else None)
        if not events and not known:
            raise entity.missing
        return EntityEvents(
            type=entity.type,
            id=entity.id,
            events=events,
            cursor=None if last else encode_cursor(str(page[-1][0])),
            **held.figures(None),
        )

    async def _cold(self, entity: Asked, wanted: TimeRange, below: int | None) -> list[EventAnswer]:
        """What only the archive has, newest first: events below the oldest one of the table."""
        to_ms = EPOCH_MS_MAX if wanted.to_ms is None else wanted.to_ms
        cold = await self._archive.entity_events(
            entity.type, entity.id, wanted.from_ms or 0, to_ms, KEYS_MAX
        )
        return [
            EventAnswer(**msgspec.structs.asdict(event), source="cold")
            for event in reversed(cold)
            if below is None or event.offset < below
        ]


async def _newest(
    held: Held, key: bytes, wanted: TimeRange, most: int, before: int | None
) -> list[tuple[int, Change]]:
    """Up to ``most`` changes with their sequences, newest first, hardly over the bytes.

    At most the entity's history is read: its bound is that of the type's declaration.
    """
    found: list[tuple[int, Change]] = []
    size, count = 0, min(SLICE, most)
    while len(found) < most and size <= PAGE_BYTES_MAX:
        # Opened anew: between two slices the partition may have left this worker.
        lo, hi = history_bounds(key, before)
        rows = list(held.table(HISTORY_TABLE).range(lo, hi, limit=count, reverse=True))
        numbered = [(parse_history_key(raw)[1], change) for raw, change in rows]
        taken = [each for each in numbered if wanted.holds(each[1].timestamp)]
        found += taken[: most - len(found)]
        size += sum(len(change.attributes) for _, change in taken)
        if len(rows) < count:
            break
        before = numbered[-1][0]
        await asyncio.sleep(0)
    return found


def _event(change: Change) -> EventAnswer:
    return EventAnswer(
        change.offset,
        change.op,
        change.version,
        change.timestamp,
        change.event_id,
        change.ingest_ts,
        msgspec.Raw(change.attributes),
        "hot",
        change.applied,
    )


def _fitting(rows: list[tuple[int, Change]]) -> list[tuple[int, Change]]:
    """The first rows, at least one, whose attributes fit an answer."""
    size = 0
    for place, (_, change) in enumerate(rows):
        size += len(change.attributes)
        if size > PAGE_BYTES_MAX and place:
            return rows[:place]
    return rows


def _before(query: Mapping[str, str]) -> int | None:
    text = parse_cursor(query)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise refusal("cursor", "expected the cursor of the page before, as it was given")
    return int(text)
