"""``GET /api/v1/entities/{type}/{id}``: the latest state of one entity, from its owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from aiohttp import web

from app.engine.query import Queries
from tables.entities.spec import EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState
from web.entities.asked import Asked, asked
from web.entities.cache import Answer, AnswerCache
from web.entities.gateway import TOPIC
from web.peers import PeerAnswer, Peers
from web.problem import CONTENT_TYPE, Kind, ProblemError, json_response
from web.queries.asking import ask, hop, unavailable
from web.queries.scatter import passed_on
from web.queries.whence import Held, Whence


class EntityAnswer(Whence, frozen=True, kw_only=True):
    """The latest state of an entity; ``updated_at``: when it was changed last, epoch ms.

    There is no watermark: entities go by versions, not by event time.
    """

    type: str
    id: str
    state: Literal["active"]
    version: int
    updated_at: int
    attributes: msgspec.Raw


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
    ) -> None:
        self._queries = queries
        self._peers = peers
        self._specs = specs
        self._cache = cache

    async def one(self, request: web.Request) -> web.Response:
        """The latest state: 200; 410 once deregistered; 404; 503 restoring; 504 owner away."""
        entity = asked(self._specs, self._queries, request)
        owner = self._queries.owner(TOPIC, entity.key)
        if owner.local or entity.consistency == "stale":
            found = await ask(
                self._queries,
                self._peers,
                entity.again(),
                lambda partition: self._state(entity, partition),
            )
            return passed_on(found) if isinstance(found, PeerAnswer) else json_response(found)
        held = self._cache.get(entity.key)
        if held is not None:
            answer, age_ms = held
            stale = answer.document["staleness_ms"] + age_ms
            return _response(answer.status, answer.document | {"staleness_ms": stale})
        asked_at = self._cache.now()
        said = await hop(self._peers, owner, entity.again())
        if said.status in (200, Kind.GONE.status):
            self._keep(entity.key, said, asked_at)
        return passed_on(said)

    def _keep(self, key: bytes, said: PeerAnswer, asked_at: float) -> None:
        try:
            document = msgspec.json.decode(said.body, type=dict[str, Any])
            version = msgspec.convert(document, _Said).version
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # passed on as it is
        self._cache.put(key, Answer(said.status, document, version), asked_at, len(said.body))

    async def _state(self, entity: Asked, partition: int) -> EntityAnswer:
        with unavailable():
            held = Held(self._queries, TOPIC, partition, entity.consistency)
            state: EntityState | None = held.table(ENTITIES_TABLE).get(entity.key)
        if state is None:
            raise entity.missing
        figures = held.figures(None)
        if state.deregistered:
            told = {"version": state.version, "updated_at": state.timestamp}
            raise ProblemError(
                Kind.GONE,
                f"the {entity.type} {entity.id[:200]!r} was deregistered",
                extra={**told, **msgspec.to_builtins(Whence(**figures))},
            )
        return EntityAnswer(
            type=entity.type,
            id=entity.id,
            state="active",
            version=state.version,
            updated_at=state.timestamp,
            attributes=msgspec.Raw(state.attributes),
            **figures,
        )


def _response(status: int, document: Mapping[str, object]) -> web.Response:
    response = json_response(document, status)
    if status != 200:
        response.content_type = CONTENT_TYPE
    return response
