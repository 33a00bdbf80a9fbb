"""Moments and lengths of time as people write them. Pure: now is an argument."""

from __future__ import annotations

import re
from typing import Final

from app.models.rules import RuleError, parse_timestamp

EPOCH_MS_MAX: Final = 1 << 53
ACCEPTED: Final = (
    "expected epoch milliseconds, RFC 3339 such as 2026-01-31T12:00:00Z, "
    "or a time before now such as -15m (ms, s, m, h, d), or now"
)
LENGTHS: Final = "expected milliseconds, or a length such as 10s (ms, s, m, h, d)"

_LENGTH: Final = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)?")
_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def read_length(text: str) -> int:
    """Milliseconds of ``10s`` or, without a unit, of a number; :class:`RuleError` otherwise."""
    length = _LENGTH.fullmatch(text)
    if length is None:
        raise RuleError(LENGTHS)
    return int(length[1]) * _UNITS_MS[length[2] or "ms"]


def read_moment(text: str, now_ms: int) -> int:
    """Epoch milliseconds of RFC 3339, of epoch milliseconds, or of a time before now.

    A time before the epoch is the epoch. Raises :class:`RuleError`, which says what is accepted.
    """
    if text == "now":
        return now_ms
    if text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= EPOCH_MS_MAX:
        return int(text)
    try:
        if text.startswith("-") and not text[1:].isdigit():
            return max(0, now_ms - read_length(text[1:]))
        return parse_timestamp(text)
    except RuleError as exc:
        raise RuleError(ACCEPTED) from exc
