"""Moments in queries: epoch milliseconds, RFC 3339, or relative to now. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from app.models.moments import read_moment
from app.models.rules import RuleError
from web.problem import ItemError, Kind, ProblemError

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
    try:
        # A plus that was not percent-encoded arrives as a space.
        return read_moment(_UNESCAPED_PLUS.sub(r"+\1", text), now_ms)
    except RuleError as exc:
        raise refusal(field, str(exc)) from exc


def parse_time_range(query: Mapping[str, str], now_ms: int) -> TimeRange:
    """``from`` and ``to``, the former before the latter; 400 otherwise."""
    from_ms, to_ms = parse_moment(query, "from", now_ms), parse_moment(query, "to", now_ms)
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise refusal("from", f"must be less than to ({from_ms} >= {to_ms})")
    return TimeRange(from_ms, to_ms)
