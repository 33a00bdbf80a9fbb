"""One lifecycle event: its key, its rules, its JSON on ``entity-events``.

The gateway and the agent read events by the same function, so what one accepts the other
does. An event must carry its version: only the writer knows the order of its changes. A
version given here would be the order of arrival, which retries and several writers
change, and one made of a clock would tie two changes of one millisecond and stand above
every version that was counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec

from app.models import rules
from app.models.incoming import FieldError
from app.models.rules import RuleError
from tables.entities.spec import EntitySpec

Op = Literal["register", "update", "deregister"]
Attribute = str | int | float | bool | None

OPS: Final[tuple[Op, ...]] = get_args(Op)
VERSION_MAX: Final = (1 << 53) - 1
"""The largest whole number every JSON reader keeps exactly. It is the last version: whoever
writes it freezes the entity until its tombstone is purged."""
ID_MAX: Final = rules.KEY_MAX
NAME_MAX: Final = 128
INTEGER_MAX: Final = 1 << 63

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {"event_id": ("eventId",), "timestamp": ("ts",)}
_is_canonical_id: Final = re.compile(rules.EVENT_ID_PATTERN).match
_T = TypeVar("_T")


class EntityEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A valid event; its entity is the key of its record.

    ``timestamp`` is when the change happened, epoch ms. ``attributes`` are all the entity has
    after it, none for a deregistration: nothing is merged into what was known before.
    """

    event_id: str
    op: Op
    version: int
    timestamp: int
    attributes: dict[str, Attribute]


_encoder: Final = msgspec.json.Encoder(order="sorted")


def encode_event(event: EntityEvent) -> bytes:
    """JSON of an event, object members in order of their names."""
    return _encoder.encode(event)


def encode_attributes(attributes: Mapping[str, Attribute]) -> bytes:
    """JSON object, members in order of their names: equal attributes have equal bytes."""
    return _encoder.encode(attributes)


def entity_key(type_: str, entity_id: str) -> bytes:
    """Kafka key, and row key, of an entity: ``type:id`` in UTF-8. A type has no colon."""
    return f"{type_}:{entity_id}".encode()


def parse_key(key: bytes) -> tuple[str, str]:
    """Type and id of a key; raises :class:`RuleError` on one that names no entity."""
    try:
        type_, colon, entity_id = key.decode().partition(":")
    except UnicodeDecodeError:
        raise RuleError("must be type:id in UTF-8") from None
    if not type_ or not colon:
        raise RuleError("is required: type:id" if not key else "must be type:id")
    return type_, check_id(entity_id)


def type_of(row_key: bytes) -> str:
    """Type of an entity's key, or of a row key that begins with one; not validated."""
    return row_key.partition(b":")[0].decode("utf-8", "replace")


def check_id(entity_id: str) -> str:
    """The id as it is, or :class:`RuleError`."""
    if not entity_id.strip():
        raise RuleError("is required")
    if len(entity_id) > ID_MAX:
        raise RuleError(f"must have at most {ID_MAX} characters")
    return rules.check_key(entity_id)


def read_event(
    raw: object, spec: EntitySpec, now_ms: int, new_id: Callable[[], str]
) -> EntityEvent | list[FieldError]:
    """The event of a decoded JSON object, or every reason why there is none (>= 1).

    ``now_ms`` stands in for a missing timestamp and bounds a given one
    (:data:`app.models.rules.FUTURE_MS_MAX` ahead); ``new_id`` gives a missing id. Null is
    "not given"; unknown fields are dropped. Never raises.
    """
    if not isinstance(raw, dict):
        return [FieldError("", "an entity event must be a JSON object")]
    errors: list[FieldError] = []

    def read(field: str, check: Callable[[Any], _T], otherwise: Callable[[], _T]) -> _T | None:
        names = (field, *_ALIASES.get(field, ()))
        value = next((raw[name] for name in names if raw.get(name) is not None), None)
        try:
            return otherwise() if value is None else check(value)
        except RuleError as error:
            errors.append(FieldError(field, str(error)))
            return None

    event_id = read("event_id", _event_id, new_id)
    op = read("op", _op, _required)
    version = read("version", _version, _required)
    timestamp = read(
        "timestamp",
        lambda value: rules.check_not_future(rules.parse_timestamp(value), now_ms),
        lambda: now_ms,
    )
    attributes = read("attributes", lambda value: _attributes(value, spec), dict[str, Attribute])
    if op == "deregister" and attributes:
        errors.append(FieldError("attributes", "must not be given: a deregistered entity has none"))
    if event_id is None or op is None or version is None or timestamp is None:
        return errors
    if errors or attributes is None:
        return errors
    return EntityEvent(
        event_id=event_id, op=op, version=version, timestamp=timestamp, attributes=attributes
    )


def _required() -> Any:
    raise RuleError("is required")


def _event_id(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text if _is_canonical_id(text) else rules.canonical_event_id(text)


def _op(value: object) -> Op:
    for op in OPS:
        if value == op:
            return op
    raise RuleError(f"must be one of {', '.join(OPS)}")


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= VERSION_MAX:
        raise RuleError(
            f"must be a whole number from 1 to {VERSION_MAX}, higher with each change of the entity"
        )
    return value


def _attributes(value: object, spec: EntitySpec) -> dict[str, Attribute]:
    if not isinstance(value, dict):
        raise RuleError("must be a flat object")
    if len(value) > spec.attributes_max:
        raise RuleError(f"must have at most {spec.attributes_max} entries for a {spec.type}")
    for name, item in value.items():
        if not 0 < len(name) <= NAME_MAX or not name.isprintable():
            raise RuleError(f"names must have 1 to {NAME_MAX} printable characters")
        if not isinstance(item, str | int | float | None):
            raise RuleError(
                f"{name[:64]!r} must be a string, a number, true, false or null: values are flat"
            )
        if isinstance(item, str):
            rules.utf8_len(item)
        elif isinstance(item, int) and not -INTEGER_MAX <= item < INTEGER_MAX:
            raise RuleError(f"{name[:64]!r} must be a whole number of 64 bits")
    size = len(encode_attributes(value))
    if size > spec.attribute_bytes_max:
        raise RuleError(
            f"must take at most {spec.attribute_bytes_max} bytes as JSON for a {spec.type}, "
            f"not {size}"
        )
    return value
