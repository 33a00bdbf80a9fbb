"""``POST /api/v1/entities/{type}/{id}``: a change of an entity in, 202 once the broker has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import uuid4

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from app.models.incoming import NotJsonError, parse_json
from app.models.rules import RuleError
from tables.entities.event import EntityEvent, check_id, encode_event, entity_key, read_event
from tables.entities.spec import EntitySpecs
from web.entities.cache import AnswerCache
from web.gateway.body import read_body
from web.gateway.limits import TokenBucket
from web.gateway.producer import IngestUnavailable
from web.problem import ItemError, Kind, ProblemError, json_response

TOPIC: Final = "entity-events"
REQUESTS_MAX: Final = 64
"""Requests being read or acknowledged at once: with 1 MiB each, the memory they can take."""


class RecordSink(Protocol):
    """Where accepted events go; returns once they are durable."""

    async def produce(self, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Write all, or raise :class:`IngestUnavailable`."""
        ...


def _new_id() -> str:
    return str(uuid4())


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
        self._bucket = TokenBucket(rate, clock())
        self._requests = 0
        self._throttled = Counter(
            "entity_events_throttled", "Changes of entities answered 429", registry=registry
        )

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request; raises :class:`ProblemError` for every other end."""
        if self._requests >= REQUESTS_MAX:
            raise ProblemError(
                Kind.UNAVAILABLE, f"{REQUESTS_MAX} requests are under way", retry_after_s=1
            )
        self._requests += 1
        try:
            key, event = self._judge(request, await read_body(request))
            await self._accept(key, event)
        finally:
            self._requests -= 1
        return json_response({"eventId": event.event_id, "version": event.version}, 202)

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
                event = read_event(parsed, spec, self._clock(), _new_id)
                if isinstance(event, EntityEvent) and not errors:
                    return entity_key(type_, entity_id), event
                if isinstance(event, list):
                    errors += [ItemError(0, each.field, each.reason) for each in event]
        raise ProblemError(Kind.INVALID, "the change is not valid", errors=errors)

    async def _accept(self, key: bytes, event: EntityEvent) -> None:
        admission = self._bucket.take(1, self._clock())
        if not admission.admitted:
            self._throttled.inc()
            raise ProblemError(
                Kind.THROTTLED,
                "this worker accepts fewer changes per second (ingest_rate)",
                retry_after_s=-(-admission.wait_ms // 1000),
            )
        if admission.wait_ms:
            await asyncio.sleep(admission.wait_ms / 1000)
        try:
            await self._sink.produce(TOPIC, [(key, encode_event(event))])
        except IngestUnavailable as exc:
            raise ProblemError(
                Kind.UNAVAILABLE,
                f"{exc}; send the change again, with the same event id and timestamp",
                retry_after_s=exc.retry_after_s,
            ) from exc
        self._cache.changed(key, event.version)
