"""Parameters that many operations take, described once."""

from __future__ import annotations

from typing import Final

from web.api.document import Param
from web.queries.params import KEYS_DEFAULT, KEYS_MAX

_MOMENT: Final = {
    "type": "string",
    "examples": ["-15m", "2026-01-31T12:00:00Z", "1769860800000"],
}
FROM: Final = Param("from", "Start, inclusive: RFC 3339, epoch ms, relative (-15m) or now", _MOMENT)
TO: Final = Param("to", "End, exclusive: as from", _MOMENT)
LIMIT: Final = Param(
    "limit",
    "Most entries",
    {"type": "integer", "minimum": 1, "maximum": KEYS_MAX, "default": KEYS_DEFAULT},
)
CURSOR: Final = Param("cursor", "Cursor of the page before")
CONSISTENCY: Final = Param(
    "consistency",
    "stale: a standby may answer, and says how old its rows are",
    {"type": "string", "enum": ["owner", "stale"], "default": "owner"},
)
