"""Moments in queries: epoch milliseconds, RFC 3339, or relative to now. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.models.rules import RuleError, parse_timestamp
from web.problem import ItemError, Kind, ProblemError

EPOCH_MS_MAX: Final = 1 << 53
ACCEPTED: Final = (
    "expected epoch milliseconds, RFC 3339 such as 2026-01-31T12:00:00Z, "
    "or a time before now such as -15m (ms, s, m, h, d), or now"
)

_RELATIVE: Final = re.compile(r"-([0-9]{1,12})(ms|s|m|h|d)")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNESCAPED_PLUS: Final = re.compile(r" ([0-9]{2}:[0-9]{2})$")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """``[from_ms, to_ms)``; None: no bound on that side."""

    from_ms: int | None
    to_ms: int | None

    def holds(self, moment_ms: int) -> bool:
        """Whether a moment is in it."""
        after = self.from_ms is None or self.from_ms <= moment_ms
        return after and (self.to_ms is None or moment_ms < self.to_ms)

    def query(self) -> dict[str, str]:
        """The same range as parameters, whatever the clock of who reads them."""
        bounds = {"from": self.from_ms, "to": self.to_ms}
        return {name: str(at) for name, at in bounds.items() if at is not None}


def refusal(field: str, reason: str) -> ProblemError:
    """400 that names a parameter and the reason."""
    return ProblemError(
        Kind.INVALID, f"parameter {field}: {reason}", errors=[ItemError(0, field, reason)]
    )


def parse_moment(query: Mapping[str, str], field: str, now_ms: int) -> int | None:
    """Epoch milliseconds of a parameter, None when it is absent; 400 for anything else."""
    text = query.get(field)
    if text is None:
        return None
    if text == "now":
        return now_ms
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        return max(0, now_ms - int(relative[1]) * _UNITS_MS[relative[2]])
    if text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= EPOCH_MS_MAX:
        return int(text)
    try:
        # A plus that was not percent-encoded arrives as a space.
        return parse_timestamp(_UNESCAPED_PLUS.sub(r"+\1", text))
    except RuleError as exc:
        raise refusal(field, ACCEPTED) from exc


def parse_time_range(query: Mapping[str, str], now_ms: int) -> TimeRange:
    """``from`` and ``to``, the former before the latter; 400 otherwise."""
    from_ms, to_ms = parse_moment(query, "from", now_ms), parse_moment(query, "to", now_ms)
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise refusal("from", f"must be less than to ({from_ms} >= {to_ms})")
    return TimeRange(from_ms, to_ms)
