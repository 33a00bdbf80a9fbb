"""``POST /api/v1/logs``: events in, 202 once the broker has them.

body -> items -> canonical events -> admission (token bucket) -> producer -> answer
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from app.engine.batch import Headers
from app.models.event import LogEvent
from app.models.incoming import FieldError, normalise
from web.gateway.body import read_body
from web.gateway.intake import Intake, new_id
from web.gateway.parse import BATCH_MAX, BatchTooLongError, MalformedError, Parsed, parse_body
from web.problem import ItemError, Kind, ProblemError, json_response

TOPIC: Final = "application-logs"
REQUESTS_MAX: Final = 256
"""Requests being read or acknowledged at once."""

NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
"""Content types of one event a line."""


class Accepted(msgspec.Struct, frozen=True, rename={"event_id": "eventId"}):
    """The event is durable, under this id."""

    event_id: str


class ItemResult(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"event_id": "eventId"}
):
    """What became of an item: accepted (202) under its id, or refused (400) and why."""

    status: Literal[202, 400]
    event_id: str | msgspec.UnsetType = msgspec.UNSET
    errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET


class BatchResults(msgspec.Struct, frozen=True):
    """What became of each item of a batch, in its order."""

    results: list[ItemResult]
    accepted: int
    rejected: int


class EventSink(Protocol):
    """Where accepted events go; returns once they are durable."""

    async def send(self, topic: str, events: Sequence[LogEvent], headers: Headers = ()) -> None:
        """Write all, or raise :class:`~web.gateway.producer.IngestUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class _Judged:
    """Items of a request in order, each an event or the reasons why not."""

    outcomes: list[LogEvent | list[FieldError]]
    single: bool

    @property
    def events(self) -> list[LogEvent]:
        return [each for each in self.outcomes if isinstance(each, LogEvent)]

    @property
    def errors(self) -> list[ItemError]:
        return [
            ItemError(index, error.field, error.reason)
            for index, each in enumerate(self.outcomes)
            if not isinstance(each, LogEvent)
            for error in each
        ]

    def results(self) -> BatchResults:
        """Answer to a batch: what became of each item."""
        results = [
            ItemResult(status=202, event_id=each.event_id)
            if isinstance(each, LogEvent)
            else ItemResult(status=400, errors=each)
            for each in self.outcomes
        ]
        accepted = len(self.events)
        return BatchResults(results, accepted, len(self.outcomes) - accepted)


class LogsGateway:
    """The ingest endpoint of one worker.

    Over ``rate`` events per second it answers 429, and counts each such answer in
    ``producer_throttled_total``; while the events cannot be made durable it answers 503.
    Both carry Retry-After.
    """

    def __init__(
        self,
        sink: EventSink,
        rate: int,
        clock: Callable[[], int],
        registry: CollectorRegistry,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        """``clock`` gives epoch milliseconds, ``new_id`` the ids of events that have none."""
        self._sink = sink
        self._clock = clock
        self._new_id = new_id
        self._intake = Intake(
            "events",
            again="send the events again, with the same event ids",
            rate=rate,
            requests_max=REQUESTS_MAX,
            clock=clock,
            throttled=Counter("producer_throttled", "Requests answered 429", registry=registry),
        )

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request; raises :class:`ProblemError` for every other end."""
        with self._intake.request():
            judged = self._judge(await self._items(request))
            events = judged.events
            await self._intake.send(len(events), lambda: self._sink.send(TOPIC, events))
        if judged.single:
            return json_response(Accepted(judged.events[0].event_id), 202)
        return json_response(judged.results(), 202)

    @staticmethod
    async def _items(request: web.Request) -> Parsed:
        raw = await read_body(request)
        try:
            parsed = parse_body(raw, ndjson=request.content_type in NDJSON)
        except MalformedError as exc:
            raise ProblemError(
                Kind.INVALID,
                "the body cannot be read; nothing was accepted",
                errors=[ItemError(exc.index, "", exc.reason)],
            ) from exc
        except BatchTooLongError as exc:
            raise ProblemError(
                Kind.TOO_LARGE, f"more than {BATCH_MAX} events in one request: split the batch"
            ) from exc
        if not parsed.items:
            raise ProblemError(
                Kind.INVALID,
                "the batch holds no events",
                errors=[ItemError(0, "", "expected at least one event")],
            )
        return parsed

    def _judge(self, parsed: Parsed) -> _Judged:
        now_ms = self._clock()
        judged = _Judged(
            [normalise(item, now_ms, self._new_id) for item in parsed.items], parsed.single
        )
        if not judged.events:
            raise ProblemError(
                Kind.INVALID,
                "the event is not valid" if parsed.single else "no event of the batch is valid",
                errors=judged.errors,
                extra={} if parsed.single else msgspec.to_builtins(judged.results()),
            )
        return judged
