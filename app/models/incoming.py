"""The edge: whatever a sender calls an event becomes a canonical one, or a list of reasons.

:func:`normalise` never raises, whatever it is given. The gateway, the shippers and the
normaliser share it, so an event means the same wherever it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from app.models import rules
from app.models.event import FIELDS, LogEvent, encode_event


@dataclass(frozen=True, slots=True)
class FieldError:
    """Why an event is refused. ``field`` is the canonical name, "" for the event as a whole."""

    field: str
    reason: str


class NotJsonError(ValueError):
    """The bytes are not JSON; the text says why."""


_decode_json: Final = msgspec.json.Decoder().decode


def parse_json(raw: bytes) -> object:
    """Python value of a JSON text.

    Raises :class:`NotJsonError`, and nothing else, on invalid JSON or UTF-8, NaN,
    Infinity, numbers out of range, half surrogates and deep nesting.
    """
    try:
        return _decode_json(raw)
    except UnicodeDecodeError as exc:
        raise NotJsonError(f"not valid UTF-8 at byte {exc.start}") from None
    except msgspec.DecodeError as exc:
        raise NotJsonError(f"not valid JSON: {exc}") from None
    except RecursionError:
        raise NotJsonError("not valid JSON: nested too deep") from None


def normalise(raw: object, now_ms: int, new_id: Callable[[], str]) -> LogEvent | list[FieldError]:
    """Canonical event of a decoded JSON object, or every reason why there is none (>= 1).

    ``now_ms`` is the ingest time: it becomes ``ingest_ts``, stands in for a missing
    timestamp, and bounds a given one (:data:`app.models.rules.FUTURE_MS_MAX` ahead).
    ``new_id`` gives the id of an event that has none. ``service`` defaults to ``source``.
    Aliases are renamed, the canonical name winning; null is "not given"; unknown fields
    are dropped.
    """
    if not isinstance(raw, dict):
        return [FieldError("", "an event must be a JSON object")]
    fields = _canonical_names(raw)
    fields["ingest_ts"] = now_ms
    fields.setdefault("timestamp", now_ms)
    service_given = "service" in fields
    if not service_given:
        fields["service"] = fields.get("source")
    if "event_id" not in fields:
        fields["event_id"] = new_id()
    try:
        model = IncomingEvent.model_validate(fields, context=now_ms)
    except ValidationError as exc:
        return _field_errors(exc, service_given)
    event = LogEvent(**vars(model))
    # Only these two fields can make an event large.
    large = event.metadata is not None or (event.message is not None and len(event.message) > 4_096)
    if large and len(encode_event(event)) > rules.EVENT_BYTES_MAX:
        return [FieldError("", f"must be at most {rules.EVENT_BYTES_MAX} bytes as JSON")]
    return event


def _ranked_names() -> dict[str, tuple[str, int]]:
    names = {field: (field, 0) for field in FIELDS}
    for field, aliases in rules.ALIASES.items():
        names.update({alias: (field, rank) for rank, alias in enumerate(aliases, start=1)})
    return names


_NAMES: Final = _ranked_names()
_GEO: Final = tuple(
    (field, alias.removeprefix("geo."))
    for field, aliases in rules.ALIASES.items()
    for alias in aliases
    if alias.startswith("geo.")
)


def _canonical_names(raw: Mapping[Any, object]) -> dict[str, object]:
    fields: dict[str, object] = {}
    ranks: dict[str, int] = {}
    for name, value in raw.items():
        known = _NAMES.get(name)
        if known is None or value is None:
            continue
        field, rank = known
        if rank < ranks.get(field, len(_NAMES)):
            fields[field] = value
            ranks[field] = rank
    geo = raw.get("geo")
    if isinstance(geo, dict):
        for field, inner in _GEO:
            if field not in fields and geo.get(inner) is not None:
                fields[field] = geo[inner]
    return fields


def _field_errors(exc: ValidationError, service_given: bool) -> list[FieldError]:
    errors = []
    for error in exc.errors(include_url=False, include_input=False):
        field = str(error["loc"][0]) if error["loc"] else ""
        # A wrong source makes its copy, service, wrong too: one reason is enough.
        if field == "service" and not service_given:
            continue
        broken = error.get("ctx", {}).get("error")
        reason = str(broken) if isinstance(broken, rules.RuleError) else error["msg"]
        errors.append(FieldError(field, "is required" if error["type"] == "missing" else reason))
    return errors


def _id_text(value: object) -> object:
    """Identifiers are often numbers where they come from; as text they are the same name."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return value


def _amount(value: object) -> object:
    if isinstance(value, float):
        raise rules.RuleError('must be a decimal string, such as "99.99", not a binary float')
    return _id_text(value)


def _timestamp(value: object, info: ValidationInfo) -> int:
    return rules.check_not_future(rules.parse_timestamp(value), cast(int, info.context))


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise rules.RuleError("must be a flat object of strings")
    if len(value) > rules.METADATA_MAX:
        raise rules.RuleError(f"must have at most {rules.METADATA_MAX} entries")
    flat: dict[str, str] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not 0 < len(key) <= rules.METADATA_KEY_MAX:
            raise rules.RuleError(f"keys must have 1 to {rules.METADATA_KEY_MAX} characters")
        rules.utf8_len(key)
        if item is not None:
            flat[key] = _metadata_text(item)
    return flat


def _metadata_text(item: object) -> str:
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return repr(item)
    text = _id_text(item)
    if not isinstance(text, str):
        raise rules.RuleError("must be flat: values are strings, numbers or booleans")
    if len(text) > rules.METADATA_VALUE_MAX:
        raise rules.RuleError(f"values must have at most {rules.METADATA_VALUE_MAX} characters")
    rules.utf8_len(text)
    return text


_Printable = AfterValidator(rules.check_key)
_Key = Annotated[str, Field(min_length=1, max_length=rules.KEY_MAX), _Printable]
_Id = Annotated[_Key, BeforeValidator(_id_text)]


def _number(low: float, high: float) -> Any:
    return Field(ge=low, le=high, allow_inf_nan=False)


class IncomingEvent(BaseModel):
    """The rules as pydantic checks them; the fields of :class:`app.models.event.LogEvent`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    event_id: Annotated[str, AfterValidator(rules.canonical_event_id)]
    timestamp: Annotated[int, BeforeValidator(_timestamp)]
    source: _Key
    service: _Key
    level: Annotated[str, AfterValidator(rules.canonical_level)] = "INFO"
    type: Annotated[str, AfterValidator(rules.canonical_type)] = "log"
    ingest_ts: int
    priority: Annotated[str, AfterValidator(rules.canonical_priority)] | None = None
    message: Annotated[str, AfterValidator(rules.check_message)] | None = None
    endpoint: (
        Annotated[str, Field(min_length=1, max_length=rules.ENDPOINT_MAX), _Printable] | None
    ) = None
    method: Annotated[str, Field(min_length=1, max_length=rules.METHOD_MAX), _Printable] | None = (
        None
    )
    status: Annotated[int, Field(ge=rules.STATUS_MIN, le=rules.STATUS_MAX)] | None = None
    latency_ms: Annotated[float, _number(0, rules.LATENCY_MS_MAX)] | None = None
    user_id: _Id | None = None
    session_id: _Id | None = None
    device_id: _Id | None = None
    ip: Annotated[str, Field(min_length=1, max_length=rules.IP_MAX), _Printable] | None = None
    country: _Key | None = None
    region: _Key | None = None
    lat: Annotated[float, _number(-rules.LAT_MAX, rules.LAT_MAX)] | None = None
    lon: Annotated[float, _number(-rules.LON_MAX, rules.LON_MAX)] | None = None
    metric_name: _Key | None = None
    value: Annotated[float, _number(-rules.VALUE_MAX, rules.VALUE_MAX)] | None = None
    transaction_id: _Id | None = None
    amount: Annotated[str, BeforeValidator(_amount), AfterValidator(rules.check_amount)] | None = (
        None
    )
    currency: Annotated[str, AfterValidator(rules.canonical_currency)] | None = None
    trace_id: _Id | None = None
    correlation_id: _Id | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(_metadata)] | None = None
