"""The event as it travels on ``log-events``, and its codec for the hot path.

:data:`decode_event` checks types, sets, lengths and ranges while it parses; what would
cost a regular expression per event (:func:`conforms`) is checked once, by whoever writes
the topic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from app.models import rules

_Key = Annotated[str, Meta(min_length=1, max_length=rules.KEY_MAX)]
_Timestamp = Annotated[int, Meta(ge=rules.TIMESTAMP_MIN, le=rules.TIMESTAMP_MAX)]
_Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=rules.METADATA_KEY_MAX)],
        Annotated[str, Meta(max_length=rules.METADATA_VALUE_MAX)],
    ],
    Meta(max_length=rules.METADATA_MAX),
]


class LogEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One event, canonical names only. None means "not given" and is not written.

    ``timestamp`` (event time) and ``ingest_ts`` are epoch milliseconds UTC,
    ``latency_ms`` is in milliseconds, ``amount`` a decimal string.
    """

    event_id: Annotated[str, Meta(min_length=36, max_length=rules.EVENT_ID_LEN)]
    timestamp: _Timestamp
    source: _Key
    service: _Key
    level: rules.Level = "INFO"
    type: rules.EventType = "log"
    ingest_ts: _Timestamp | None = None
    priority: rules.Priority | None = None
    message: Annotated[str, Meta(max_length=rules.MESSAGE_BYTES_MAX)] | None = None
    endpoint: Annotated[str, Meta(min_length=1, max_length=rules.ENDPOINT_MAX)] | None = None
    method: Annotated[str, Meta(min_length=1, max_length=rules.METHOD_MAX)] | None = None
    status: Annotated[int, Meta(ge=rules.STATUS_MIN, le=rules.STATUS_MAX)] | None = None
    latency_ms: Annotated[float, Meta(ge=0, le=rules.LATENCY_MS_MAX)] | None = None
    user_id: _Key | None = None
    session_id: _Key | None = None
    device_id: _Key | None = None
    ip: Annotated[str, Meta(min_length=1, max_length=rules.IP_MAX)] | None = None
    country: _Key | None = None
    region: _Key | None = None
    lat: Annotated[float, Meta(ge=-rules.LAT_MAX, le=rules.LAT_MAX)] | None = None
    lon: Annotated[float, Meta(ge=-rules.LON_MAX, le=rules.LON_MAX)] | None = None
    metric_name: _Key | None = None
    value: Annotated[float, Meta(ge=-rules.VALUE_MAX, le=rules.VALUE_MAX)] | None = None
    transaction_id: _Key | None = None
    amount: Annotated[str, Meta(pattern=rules.AMOUNT_PATTERN)] | None = None
    currency: Annotated[str, Meta(pattern=rules.CURRENCY_PATTERN)] | None = None
    trace_id: _Key | None = None
    correlation_id: _Key | None = None
    metadata: _Metadata | None = None


decode_event: Final[Callable[[bytes], LogEvent]] = msgspec.json.Decoder(LogEvent).decode
"""Event of its JSON. Raises one of :data:`DECODE_ERRORS` on anything else; ignores unknown
fields, without looking inside them."""


class _StrictEvent(LogEvent, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LogEvent whose JSON holds nothing else."""


decode_canonical: Final[Callable[[bytes], LogEvent]] = msgspec.json.Decoder(_StrictEvent).decode
"""As :data:`decode_event`, but refuses unknown fields, which may be aliases to be renamed."""

encode_event: Final[Callable[[LogEvent], bytes]] = msgspec.json.Encoder().encode
"""JSON of an event; inverse of :data:`decode_event`."""

DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Everything :data:`decode_event` raises, whatever the bytes (RecursionError: deep nesting)."""

FIELDS: Final = LogEvent.__struct_fields__
"""Canonical field names."""

_event_id_matches: Final = re.compile(rules.EVENT_ID_PATTERN).match


def conforms(event: LogEvent) -> bool:
    """Whether a decoded event also keeps the rules :data:`decode_event` leaves out.

    These are: the shape of ``event_id``, printable names, and the bytes of the message.
    """
    if _event_id_matches(event.event_id) is None:
        return False
    message = event.message
    if (
        message is not None
        and len(message) > rules.MESSAGE_BYTES_MAX // 4
        and len(message.encode()) > rules.MESSAGE_BYTES_MAX
    ):
        return False
    names = (
        event.source,
        event.service,
        event.endpoint,
        event.method,
        event.user_id,
        event.session_id,
        event.device_id,
        event.ip,
        event.country,
        event.region,
        event.metric_name,
        event.transaction_id,
        event.trace_id,
        event.correlation_id,
    )
    return "".join(filter(None, names)).isprintable()
