"""The one definition of what an event may hold: names, sets, limits, ranges.

Both readers are built from this module: the hot path (:mod:`app.models.event`) and the
edge (:mod:`app.models.incoming`). Lengths are characters unless the name says bytes;
every bound is inclusive. Pure: time is an argument, epoch milliseconds UTC.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

import msgspec

Level = Literal["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]
Priority = Literal["CRITICAL", "HIGH", "NORMAL", "LOW"]
EventType = Literal[
    "log",
    "metric",
    "http_request",
    "db_query",
    "cache_op",
    "security",
    "audit",
    "system",
    "user_action",
    "entity",
    "transaction",
]

LEVELS: Final[tuple[Level, ...]] = get_args(Level)
"""In ascending severity."""
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""In descending urgency. Priority is not severity."""
TYPES: Final[frozenset[str]] = frozenset(get_args(EventType))

KEY_MAX: Final = 200
"""Names that become Kafka keys, table keys or labels: service, source, user_id and their like."""
ENDPOINT_MAX: Final = 2_048
METHOD_MAX: Final = 32
IP_MAX: Final = 64
MESSAGE_BYTES_MAX: Final = 64 * 1024
EVENT_BYTES_MAX: Final = 900_000
"""Encoded event: stays, with its headers, under the 1 000 000 bytes a Kafka producer takes."""

TIMESTAMP_MIN: Final = 0
TIMESTAMP_MAX: Final = 253_402_300_799_999
"""End of the year 9999, the last moment RFC 3339 can write."""
FUTURE_MS_MAX: Final = 300_000
"""How far an event may be ahead of its ingest: one further ahead would close every window."""

STATUS_MIN: Final = 100
STATUS_MAX: Final = 599
LATENCY_MS_MAX: Final = 1e9
"""Eleven days: beyond any request, and its microseconds still sum in 64 bits."""
VALUE_MAX: Final = 1e300
"""Magnitude of a metric's value: finite, with room to be added up."""
LAT_MAX: Final = 90.0
LON_MAX: Final = 180.0

METADATA_MAX: Final = 64
METADATA_KEY_MAX: Final = 128
METADATA_VALUE_MAX: Final = 4_096

EVENT_ID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
EVENT_ID_LEN: Final = 36
AMOUNT_PATTERN: Final = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?\Z"
"""A decimal of at most 18 digits on each side of the point, not negative."""
CURRENCY_PATTERN: Final = r"^[A-Z]{3}\Z"
"""The shape of ISO 4217."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "event_id": ("eventId", "id"),
    "timestamp": ("ts",),
    "service": ("serviceId",),
    "level": ("severity",),
    "message": ("msg",),
    "status": ("status_code", "statusCode"),
    "latency_ms": ("response_time", "responseTime", "latencyMs"),
    "user_id": ("userId",),
    "session_id": ("sessionId",),
    "device_id": ("deviceId",),
    "country": ("geo.country",),
    "region": ("geo.region",),
    "lat": ("geo.lat",),
    "lon": ("geo.lon",),
    "metric_name": ("metricName",),
    "transaction_id": ("transactionId",),
    "trace_id": ("traceId",),
    "correlation_id": ("correlationId",),
}
"""Canonical field -> other names accepted on input, the preferred first.

``geo.x`` stands for a flat key of that name and for ``x`` inside an object ``geo``.
"""

_LEVEL_ALIASES: Final[Mapping[str, Level]] = {
    "TRACE": "DEBUG",
    "NOTICE": "INFO",
    "WARNING": "WARN",
    "ERR": "ERROR",
    "CRIT": "FATAL",
    "CRITICAL": "FATAL",
    "ALERT": "FATAL",
    "EMERG": "FATAL",
    "EMERGENCY": "FATAL",
}
_LEVEL_OF: Final[Mapping[str, Level]] = {**{name: name for name in LEVELS}, **_LEVEL_ALIASES}
_PRIORITY_OF: Final[Mapping[str, Priority]] = {
    **{name: name for name in PRIORITIES},
    "MEDIUM": "NORMAL",
}
_WORD_MAX: Final = 32
_RFC3339_MAX: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_ZONED: Final = Annotated[datetime, msgspec.Meta(tz=True)]
_LEAP_SECOND: Final = re.compile(r"^(.{11}\d\d:\d\d):60(?=[.Zz+-])")
_AMOUNT: Final = re.compile(AMOUNT_PATTERN)
_CURRENCY: Final = re.compile(CURRENCY_PATTERN)
_LOOSE_UUID: Final = re.compile(
    r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
)


class RuleError(ValueError):
    """A value breaks a rule; the text is the reason given to the sender."""


def canonical_level(text: str) -> Level:
    """Level of a word in any case, or :class:`RuleError`."""
    level = _LEVEL_OF.get(text.strip().upper()) if len(text) <= _WORD_MAX else None
    if level is None:
        raise RuleError(f"must be one of {', '.join(LEVELS)} (or WARNING, CRITICAL)")
    return level


def canonical_priority(text: str) -> Priority:
    """Priority of a word in any case (MEDIUM is NORMAL), or :class:`RuleError`."""
    priority = _PRIORITY_OF.get(text.strip().upper()) if len(text) <= _WORD_MAX else None
    if priority is None:
        raise RuleError(f"must be one of {', '.join(PRIORITIES)} (or MEDIUM)")
    return priority


def canonical_type(text: str) -> str:
    """Event type in lower case, or :class:`RuleError`."""
    name = text.strip().lower() if len(text) <= _WORD_MAX else ""
    if name not in TYPES:
        raise RuleError(f"must be one of {', '.join(get_args(EventType))}")
    return name


def canonical_event_id(text: str) -> str:
    """UUID as 36 lower-case characters; hyphens may be missing on input."""
    if len(text) > EVENT_ID_LEN or _LOOSE_UUID.fullmatch(text) is None:
        raise RuleError("must be a UUID, such as 3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90")
    return str(UUID(text))


def check_key(text: str) -> str:
    """A name that may become a key or a label: printable, so no NUL, newline or control code."""
    if not text.isprintable():
        raise RuleError("must hold printable characters only")
    return text


def check_message(text: str) -> str:
    """Free text of at most :data:`MESSAGE_BYTES_MAX` UTF-8 bytes."""
    if len(text) > MESSAGE_BYTES_MAX or utf8_len(text) > MESSAGE_BYTES_MAX:
        raise RuleError(f"must be at most {MESSAGE_BYTES_MAX} bytes of UTF-8")
    return text


def check_amount(text: str) -> str:
    """A decimal as text, digits kept as they are, or :class:`RuleError`."""
    if _AMOUNT.match(text) is None:
        raise RuleError('must be a decimal string that is not negative, such as "99.99"')
    return text


def canonical_currency(text: str) -> str:
    """ISO 4217 code in upper case, or :class:`RuleError`."""
    code = text.upper()
    if _CURRENCY.match(code) is None:
        raise RuleError("must be an ISO 4217 code of three letters, such as USD")
    return code


def utf8_len(text: str) -> int:
    """Bytes of the text in UTF-8; :class:`RuleError` when it holds half a surrogate pair."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise RuleError("must be valid Unicode (it holds half a surrogate pair)") from None


def clip_utf8(text: str, bytes_max: int) -> str:
    """The longest head of the text that fits ``bytes_max`` bytes of UTF-8 (valid Unicode only)."""
    if len(text) * 4 <= bytes_max:
        return text
    return text.encode()[:bytes_max].decode(errors="ignore")


def parse_timestamp(value: object) -> int:
    """Epoch milliseconds of an RFC 3339 text or a number of epoch milliseconds.

    Fractions of a millisecond are cut off. Raises :class:`RuleError` outside
    [:data:`TIMESTAMP_MIN`, :data:`TIMESTAMP_MAX`] and for anything else.
    """
    if isinstance(value, str):
        moment = _parse_rfc3339(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError("must be RFC 3339 text or a number of epoch milliseconds")
    elif isinstance(value, float) and not math.isfinite(value):
        raise RuleError("must be a finite number of epoch milliseconds")
    else:
        moment = math.floor(value)
    if not TIMESTAMP_MIN <= moment <= TIMESTAMP_MAX:
        raise RuleError("must lie between the years 1970 and 9999")
    return moment


def check_not_future(timestamp: int, now_ms: int) -> int:
    """The timestamp, unless it is more than :data:`FUTURE_MS_MAX` ahead of its ingest."""
    if timestamp - now_ms > FUTURE_MS_MAX:
        raise RuleError(f"must not be more than {FUTURE_MS_MAX // 60_000} minutes in the future")
    return timestamp


def _parse_rfc3339(text: str) -> int:
    if len(text) > _RFC3339_MAX or not text.isascii():
        raise RuleError("must be RFC 3339, such as 2026-01-31T12:00:00Z")
    # RFC 3339 allows second 60, datetime does not: it is the first instant of the next minute.
    text, leap = _LEAP_SECOND.subn(r"\1:59", text)
    try:
        moment: datetime = msgspec.convert(text, _ZONED)
    except msgspec.ValidationError:
        raise RuleError(
            "must be RFC 3339 with a zone, such as 2026-01-31T12:00:00Z or ...+02:00"
        ) from None
    return (moment - _EPOCH) // _MILLISECOND + 1_000 * leap
