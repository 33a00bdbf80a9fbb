"""Query parameters of the window endpoints, validated. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final, Literal

from tables.windows.answer import STATES, State
from web.queries.times import TimeRange, parse_time_range, refusal

WINDOWS_MAX: Final = 1_440
"""Windows in one answer."""
KEYS_DEFAULT: Final = 100
KEYS_MAX: Final = 1_000

Consistency = Literal["owner", "stale"]
"""Who may answer: only the owner of the key's partition, or a standby of it as well."""


def parse_range(query: Mapping[str, str], advance_ms: int, now_ms: int) -> TimeRange:
    """``from`` and ``to``; with both given they span at most :data:`WINDOWS_MAX` windows.

    Raises a 400 :class:`ProblemError` that names the field and the limit.
    """
    return within(parse_time_range(query, now_ms), advance_ms, WINDOWS_MAX)


def within(wanted: TimeRange, advance_ms: int, windows_max: int) -> TimeRange:
    """The range, unless it holds more windows than one answer does: then a 400."""
    from_ms, to_ms = wanted.from_ms, wanted.to_ms
    if (
        from_ms is not None
        and to_ms is not None
        and -(-(to_ms - from_ms) // advance_ms) > windows_max
    ):
        raise refusal(
            "to",
            f"the range holds more than {windows_max} windows: "
            f"ask for at most {windows_max * advance_ms} ms",
        )
    return wanted


def parse_consistency(query: Mapping[str, str]) -> Consistency:
    """``consistency``: ``owner``, also when absent, or ``stale``; 400 otherwise."""
    text = query.get("consistency", "owner")
    if text not in ("owner", "stale"):
        raise refusal("consistency", "expected owner or stale")
    return "stale" if text == "stale" else "owner"


def parse_state(query: Mapping[str, str]) -> State | None:
    """``state``: one of open, closed and final; None when absent, 400 otherwise."""
    text = query.get("state")
    for state in STATES:
        if text == state:
            return state
    if text is not None:
        raise refusal("state", f"expected {', '.join(STATES)}")
    return None


def parse_limit(query: Mapping[str, str]) -> int:
    """``limit``: 1 to :data:`KEYS_MAX`, :data:`KEYS_DEFAULT` when absent; 400 otherwise."""
    text = query.get("limit", str(KEYS_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= KEYS_MAX):
        raise refusal("limit", f"expected a whole number from 1 to {KEYS_MAX}")
    return int(text)


def encode_cursor(key: str) -> str:
    """Opaque cursor of "everything after this key"."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def parse_cursor(query: Mapping[str, str]) -> str | None:
    """Key of the ``cursor``, or None for the first page; 400 for one we did not give out."""
    text = query.get("cursor")
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return raw.decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as exc:
        raise refusal("cursor", "expected the cursor of the page before, as it was given") from exc
