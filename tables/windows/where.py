"""Filters of windows: conditions on an event's fields, all of which must hold. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeGuard, get_args

from app.models import rules
from app.models.event import LogEvent
from tables.yamlfile import told

NAMES: Final = (
    "service",
    "endpoint",
    "source",
    "level",
    "type",
    "priority",
    "method",
    "user_id",
    "session_id",
    "device_id",
    "ip",
    "country",
    "region",
    "metric_name",
    "currency",
    "transaction_id",
    "trace_id",
    "correlation_id",
)
"""Fields of an event that are short strings: what may be a key, counted or compared."""

_CLOSED_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "level": rules.LEVELS,
    "type": get_args(rules.EventType),
    "priority": rules.PRIORITIES,
}
_ANY_OF_MAX: Final = 64
_STATUS: Final = "a status from 100 to 599, a list of them, or {min: 400, max: 499}"


@dataclass(frozen=True, slots=True)
class Condition:
    """``field`` is one of ``any_of``, or, where that is empty, in ``[low, high]``."""

    field: str
    any_of: tuple[str | int, ...] = ()
    low: int = 0
    high: int = 0

    def holds(self, event: LogEvent) -> bool:
        """Whether an event fulfils it; one without the field does not."""
        value = getattr(event, self.field)
        if self.any_of:
            return value in self.any_of
        return value is not None and self.low <= value <= self.high


Admits = Callable[[LogEvent], bool]


def admits_of(where: tuple[Condition, ...]) -> Admits | None:
    """Whether all conditions hold, as a function of the event; None when there is none."""
    if len(where) < 2:
        return where[0].holds if where else None
    return lambda event: all(condition.holds(event) for condition in where)


def parse_where(given: object) -> tuple[Condition, ...]:
    """Conditions of the mapping ``field: value | list of values | {min, max}``.

    Raises :class:`ValueError` that names the field and what is accepted.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError("accepted: fields of an event and the values they must have")
    return tuple(_condition(str(field), value) for field, value in given.items())


def _condition(field: str, value: object) -> Condition:
    if field == "status":
        return _status(value)
    if field not in NAMES:
        raise ValueError(f"no field {told(field)} to compare; accepted: status, {', '.join(NAMES)}")
    words: list[object] = value if isinstance(value, list) else [value]
    accepted = [word for word in words if isinstance(word, str) and word]
    if not 0 < len(words) <= _ANY_OF_MAX or len(accepted) < len(words):
        raise ValueError(f"{field}: accepted: a word, or a list of up to {_ANY_OF_MAX} words")
    known = _CLOSED_SETS.get(field)
    strange = [word for word in accepted if known is not None and word not in known]
    if strange and known is not None:
        raise ValueError(f"{field}: {told(strange[0])} is none; accepted: {', '.join(known)}")
    return Condition(field, tuple(sorted(set(accepted))))


def _status(value: object) -> Condition:
    if isinstance(value, Mapping):
        low, high = value.get("min", rules.STATUS_MIN), value.get("max", rules.STATUS_MAX)
        if not value or set(value) - {"min", "max"} or not (_is_status(low) and _is_status(high)):
            raise ValueError(f"status: accepted: {_STATUS}")
        if low > high:
            raise ValueError(f"status: min {low} is above max {high}")
        return Condition("status", (), low, high)
    listed: list[object] = value if isinstance(value, list) else [value]
    codes = [code for code in listed if _is_status(code)]
    if not 0 < len(listed) <= _ANY_OF_MAX or len(codes) < len(listed):
        raise ValueError(f"status: accepted: {_STATUS}")
    return Condition("status", tuple(sorted(set(codes))))


def _is_status(value: object) -> TypeGuard[int]:
    return type(value) is int and rules.STATUS_MIN <= value <= rules.STATUS_MAX
