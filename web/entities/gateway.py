"""``POST /api/v1/entities/{type}/{id}``: a change of an entity in, 202 once the broker has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from app.models.incoming import NotJsonError, parse_json
from app.models.rules import RuleError
from tables.entities.event import EntityEvent, check_id, encode_event, entity_key, read_event
from tables.entities.spec import EntitySpecs
from web.entities.cache import AnswerCache
from web.gateway.body import read_body
from web.gateway.intake import Intake, new_id
from web.problem import ItemError, Kind, ProblemError, json_response

TOPIC: Final = "entity-events"
REQUESTS_MAX: Final = 64
"""Requests being read or acknowledged at once."""


class ChangeAccepted(msgspec.Struct, frozen=True, rename={"event_id": "eventId"}):
    """The change is durable, under this id."""

    event_id: str
    version: int


class RecordSink(Protocol):
    """Where accepted events go; returns once they are durable."""

    async def produce(self, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write all, or raise :class:`~web.gateway.producer.IngestUnavailable`."""
        ...


class EntityGateway:
    """The endpoint of one worker. 429 over ``rate`` changes per second, 503 while not durable."""

    def __init__(
        self,
        sink: RecordSink,
        specs: EntitySpecs,
        rate: int,
        clock: Callable[[], int],
        registry: CollectorRegistry,
        cache: AnswerCache,
    ) -> None:
        """``clock`` gives epoch milliseconds; ``cache`` hears of what was accepted."""
        self._sink = sink
        self._specs = specs
        self._clock = clock
        self._cache = cache
        self._intake = Intake(
            "changes",
            again="send the change again, with the same event id and timestamp",
            rate=rate,
            requests_max=REQUESTS_MAX,
            clock=clock,
            throttled=Counter(
                "entity_events_throttled", "Changes of entities answered 429", registry=registry
            ),
        )

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request; raises :class:`ProblemError` for every other end."""
        with self._intake.request():
            key, event = self._judge(request, await read_body(request))
            record = (key, encode_event(event))
            await self._intake.send(1, lambda: self._sink.produce(TOPIC, [record]))
            self._cache.changed(key, event.version)
        return json_response(ChangeAccepted(event.event_id, event.version), 202)

    def _judge(self, request: web.Request, raw: bytes) -> tuple[bytes, EntityEvent]:
        type_, entity_id = request.match_info["type"], request.match_info.get("id", "")
        errors: list[ItemError] = []
        spec = self._specs.get(type_)
        if spec is None:
            known = ", ".join(sorted(self._specs))
            errors.append(ItemError(0, "type", f"must be one of {known}"))
        try:
            check_id(entity_id)
        except RuleError as exc:
            errors.append(ItemError(0, "id", str(exc)))
        try:
            parsed = parse_json(raw)
        except NotJsonError as exc:
            errors.append(ItemError(0, "", str(exc)))
        else:
            if spec is not None:
                event = read_event(parsed, spec, self._clock(), new_id)
                if isinstance(event, EntityEvent) and not errors:
                    return entity_key(type_, entity_id), event
                if isinstance(event, list):
                    errors += [ItemError(0, each.field, each.reason) for each in event]
        raise ProblemError(Kind.INVALID, "the change is not valid", errors=errors)
