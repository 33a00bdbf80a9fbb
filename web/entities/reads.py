"""``GET /api/v1/entities/{type}/{id}`` and ``.../history``: one entity, from its owner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web

from app.engine.query import NotOwnedError, NotReadyError, Owner, Queries
from app.models.rules import RuleError
from tables.entities.event import check_id, entity_key
from tables.entities.history import HISTORY_TABLE, Change, history_bounds, parse_history_key
from tables.entities.spec import EntitySpec, EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState
from web.entities.cache import Answer, AnswerCache
from web.entities.gateway import TOPIC
from web.peers import PeerAnswer, PeerError, Peers
from web.problem import CONTENT_TYPE, Kind, ProblemError, json_response
from web.queries.archive import Archive
from web.queries.params import KEYS_MAX, encode_cursor, parse_cursor, parse_limit
from web.queries.scatter import HOP_TIMEOUT_S, is_forwarded, moving, passed_on, restoring
from web.queries.times import EPOCH_MS_MAX, parse_moment, refusal

PATH: Final = "/api/v1/entities"
PAGE_BYTES_MAX: Final = 4 << 20
"""Attributes in one answer; a page ends there, and its cursor goes on."""
SLICE: Final = 32
"""Rows read before other work of the event loop has its turn."""


def known_type(specs: EntitySpecs, request: web.Request) -> EntitySpec:
    """The type of the address; 404 when it is not configured."""
    name = request.match_info["type"]
    spec = specs.get(name)
    if spec is None:
        known = ", ".join(sorted(specs))
        raise ProblemError(Kind.NOT_FOUND, f"no entity type is named {name[:64]!r}; known: {known}")
    return spec


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question about one entity."""

    type: str
    id: str
    forwarded: bool

    @property
    def key(self) -> bytes:
        return entity_key(self.type, self.id)

    @property
    def path(self) -> str:
        """The same question to another worker."""
        return f"{PATH}/{self.type}/{quote(self.id, safe='')}"

    @property
    def missing(self) -> ProblemError:
        return ProblemError(Kind.NOT_FOUND, f"no {self.type} has the id {self.id[:200]!r}")


class _Said(msgspec.Struct, frozen=True):
    """What is looked at in another worker's answer."""

    version: int
    staleness_ms: int


class EntityReads:
    """Point reads of one worker: its own entities, its peers' by one hop and a short cache."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        specs: EntitySpecs,
        cache: AnswerCache,
        archive: Archive,
        clock: Callable[[], int],
    ) -> None:
        """``clock`` gives epoch milliseconds."""
        self._archive = archive
        self._clock = clock
        self._queries = queries
        self._peers = peers
        self._specs = specs
        self._cache = cache

    async def one(self, request: web.Request) -> web.Response:
        """The latest state: 200; 410 once deregistered; 404; 503 restoring; 504 owner away."""
        asked = self._asked(request)
        owner = self._queries.owner(TOPIC, asked.key)
        if owner.local:
            return json_response(self._state(asked, owner.partition))
        held = self._cache.get(asked.key)
        if held is not None:
            answer, age_ms = held
            stale = answer.document["staleness_ms"] + age_ms
            return _response(answer.status, answer.document | {"staleness_ms": stale})
        asked_at = self._cache.now()
        said = await self._hop(asked, owner, asked.path)
        if said.status in (200, Kind.GONE.status):
            self._keep(asked.key, said, asked_at)
        return passed_on(said)

    async def history(self, request: web.Request) -> web.Response:
        """The newest events of an entity, newest first, a page at a time.

        The last page (``cursor`` null) ends with the oldest event the table holds. With
        ``from``, older events of the archive back to that moment follow on it, at most
        :data:`KEYS_MAX`; each event says its ``source``.
        """
        asked = self._asked(request)
        limit, before = parse_limit(request.query), _before(request.query)
        since_ms = parse_moment(request.query, "from", self._clock())
        owner = self._queries.owner(TOPIC, asked.key)
        if owner.local:
            found = await self._changes(asked, owner.partition, limit, before)
            if since_ms is not None and found["cursor"] is None:
                await self._append_cold(asked, found["events"], since_ms)
            if not found["events"] and not found.pop("known"):
                raise asked.missing
            return json_response({k: v for k, v in found.items() if k != "known"})
        cursor = {} if before is None else {"cursor": encode_cursor(str(before))}
        since = {} if since_ms is None else {"from": str(since_ms)}
        query = urlencode({"limit": str(limit)} | cursor | since)
        return passed_on(await self._hop(asked, owner, f"{asked.path}/history?{query}"))

    async def _append_cold(
        self, asked: _Asked, events: list[dict[str, object]], since_ms: int
    ) -> None:
        """Add what only the archive has, newest first: events below the oldest of ``events``."""
        cold = await self._archive.entity_events(
            asked.type, asked.id, since_ms, EPOCH_MS_MAX, KEYS_MAX
        )
        oldest = events[-1]["offset"] if events else None
        events += [
            {**msgspec.structs.asdict(event), "source": "cold"}
            for event in reversed(cold)
            if not isinstance(oldest, int) or event.offset < oldest
        ]

    def _asked(self, request: web.Request) -> _Asked:
        spec, entity_id = known_type(self._specs, request), request.match_info["id"]
        try:
            check_id(entity_id)
        except RuleError as exc:
            raise ProblemError(Kind.NOT_FOUND, f"no {spec.type} has such an id: it {exc}") from exc
        return _Asked(spec.type, entity_id, is_forwarded(request, self._queries))

    async def _hop(self, asked: _Asked, owner: Owner, path: str) -> PeerAnswer:
        if asked.forwarded or owner.url is None:
            raise moving()
        try:
            return await self._peers.get(owner.url, path, HOP_TIMEOUT_S)
        except PeerError as exc:
            raise ProblemError(Kind.OWNER_UNREACHABLE, str(exc)) from exc

    def _keep(self, key: bytes, said: PeerAnswer, asked_at: float) -> None:
        try:
            version = msgspec.json.decode(said.body, type=_Said).version
            document = msgspec.json.decode(said.body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # passed on as it is
        self._cache.put(key, Answer(said.status, document, version), asked_at, len(said.body))

    def _state(self, asked: _Asked, partition: int) -> Mapping[str, object]:
        try:
            state: EntityState | None = self._queries.table(TOPIC, partition, ENTITIES_TABLE).get(
                asked.key
            )
            whence = self._whence(partition)
        except NotReadyError as exc:
            raise restoring(exc) from exc
        except NotOwnedError as exc:
            raise moving() from exc
        if state is None:
            raise asked.missing
        if state.deregistered:
            raise ProblemError(
                Kind.GONE,
                f"the {asked.type} {asked.id[:200]!r} was deregistered",
                extra={"version": state.version, "updated_at": state.timestamp, **whence},
            )
        return {
            "type": asked.type,
            "id": asked.id,
            "state": "active",
            "version": state.version,
            "updated_at": state.timestamp,
            "attributes": msgspec.Raw(state.attributes),
            **whence,
        }

    def _whence(self, partition: int) -> dict[str, object]:
        return {
            "partition": partition,
            "worker": self._queries.worker,
            "staleness_ms": self._queries.staleness_ms(TOPIC, partition),
        }

    async def _changes(
        self, asked: _Asked, partition: int, limit: int, before: int | None
    ) -> dict[str, Any]:
        try:
            rows = await self._newest(asked.key, partition, limit + 1, before)
            known = self._queries.table(TOPIC, partition, ENTITIES_TABLE).get(asked.key)
            whence = self._whence(partition)
        except NotReadyError as exc:
            raise restoring(exc) from exc
        except NotOwnedError as exc:
            raise moving() from exc
        page = _fitting(rows[:limit])
        return {
            "type": asked.type,
            "id": asked.id,
            "events": [_event(change) for _, change in page],
            "cursor": encode_cursor(str(page[-1][0])) if len(page) < len(rows) else None,
            "known": known is not None,
            **whence,
        }

    async def _newest(
        self, key: bytes, partition: int, wanted: int, before: int | None
    ) -> list[tuple[int, Change]]:
        """Up to ``wanted`` changes with their sequences, newest first, hardly over the bytes."""
        found: list[tuple[int, Change]] = []
        size = 0
        while len(found) < wanted and size <= PAGE_BYTES_MAX:
            # Opened anew: between two slices the partition may have left this worker.
            table = self._queries.table(TOPIC, partition, HISTORY_TABLE)
            lo, hi = history_bounds(key, found[-1][0] if found else before)
            count = min(SLICE, wanted - len(found))
            rows = list(table.range(lo, hi, limit=count, reverse=True))
            found += [(parse_history_key(raw)[1], change) for raw, change in rows]
            size += sum(len(change.attributes) for _, change in rows)
            if len(rows) < count:
                break
            await asyncio.sleep(0)
        return found


def _event(change: Change) -> dict[str, object]:
    fields = msgspec.structs.asdict(change)
    return fields | {"attributes": msgspec.Raw(change.attributes), "source": "hot"}


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


def _response(status: int, document: Mapping[str, object]) -> web.Response:
    response = json_response(document, status)
    if status != 200:
        response.content_type = CONTENT_TYPE
    return response
