"""The step that turns one record of a shipper's topic into one canonical event.

Records already canonical (the gateway's, in practice all) are passed on without being
re-made; anything else takes the edge's way, or ends as a reject that says why.
Deterministic: ingest time and missing ids come from the record itself, so a replay of
the same offsets emits the same bytes.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid5

import msgspec

from app.engine.batch import Headers, RecordBatch
from app.engine.effects import Effects, Output, Reject, Step, View
from app.engine.lanes import LANE_HEADER
from app.models import rules
from app.models.event import DECODE_ERRORS, LogEvent, conforms, decode_canonical, encode_event
from app.models.incoming import FieldError, NotJsonError, normalise, parse_json

ORIGIN_HEADER: Final = "origin"
"""Which record an event was made of: ``topic/partition:offset``."""
CARRIED_HEADERS: Final = frozenset({LANE_HEADER, "trace_id", "correlation_id"})
"""Headers that stay with the event; the rest belongs to the topic it leaves."""

_KeyedValue = tuple[bytes, bytes]
_RECORD_IDS: Final = UUID("6a1c3f0e-52d7-5b0b-9f5e-3c8d7a2b4e11")
_REASON_MAX: Final = 900
"""Characters of a reject's reason: fits the 1 KiB of the dead letter's header."""


def normalise_step(output_topic: str) -> Step:
    """Step that emits, for each record, one event on ``output_topic`` keyed by its service.

    Each carries the header :data:`ORIGIN_HEADER`, so that whoever counts can tell what came of
    which record.
    Every record ends as applied (one output, in order) or as a reject of kind
    VALIDATION. "Now" is the record's own ingest time, never the clock.
    """

    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001 - contract
        effects = Effects()
        outputs = effects.outputs
        origins = f"{batch.topic}/{batch.partition}:%d".encode()
        for index, (raw, ingest_ms, headers, offset) in enumerate(
            zip(batch.values, batch.timestamps, batch.headers, batch.offsets, strict=True)
        ):
            made = _fast(raw, ingest_ms) or _slow(batch, index)
            if isinstance(made, Reject):
                effects.rejects.append(made)
            else:
                origin = (ORIGIN_HEADER, origins % offset)
                kept = (*_carried(headers), origin) if headers else (origin,)
                outputs.append(Output(output_topic, made[0], made[1], kept))
        effects.applied = len(outputs)
        return effects

    return step


def _fast(raw: bytes | None, ingest_ms: int) -> _KeyedValue | None:
    """The record as it stands, when it is canonical; None sends it the slow way."""
    if raw is None or len(raw) > rules.EVENT_BYTES_MAX:
        return None
    try:
        event = decode_canonical(raw)
    except DECODE_ERRORS:
        return None
    if event.timestamp - ingest_ms > rules.FUTURE_MS_MAX or not conforms(event):
        return None
    if event.ingest_ts is None:
        return _encoded(msgspec.structs.replace(event, ingest_ts=ingest_ms))
    return event.service.encode(), raw


def _slow(batch: RecordBatch, index: int) -> _KeyedValue | Reject:
    raw = batch.values[index]
    if raw is None:
        return Reject(index, "an empty record is not an event")
    try:
        parsed = parse_json(raw)
    except NotJsonError as exc:
        return Reject(index, str(exc)[:_REASON_MAX])

    def record_id() -> str:
        return str(uuid5(_RECORD_IDS, f"{batch.topic}/{batch.partition}/{batch.offsets[index]}"))

    made = normalise(parsed, batch.timestamps[index], record_id)
    return _encoded(made) if isinstance(made, LogEvent) else _reject(index, made)


def _encoded(event: LogEvent) -> _KeyedValue:
    return event.service.encode(), encode_event(event)


def _reject(index: int, errors: list[FieldError]) -> Reject:
    reason = "; ".join(f"{e.field} {e.reason}".strip() for e in errors)
    return Reject(index, reason[:_REASON_MAX], errors[0].field)


def _carried(headers: Headers) -> Headers:
    return [pair for pair in headers if pair[0] in CARRIED_HEADERS]
