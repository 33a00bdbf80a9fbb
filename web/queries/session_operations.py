"""The sessions' endpoints, described for the API document."""

from __future__ import annotations

from typing import Final

from web.api.document import Operation, Param
from web.queries.params import KEYS_DEFAULT, KEYS_MAX
from web.queries.session_sums import PATH, SumsAnswer
from web.queries.sessions import UserAnswer

_TYPE: Final = Param("type", "Kind of session of config/sessions.yaml; the first when absent")
_USER: Final = Param("userId", "Whose sessions: a value of the key of that kind", where="path")
_FROM: Final = Param("from", "Start, inclusive: RFC 3339, epoch ms, relative (-15m) or now")
_TO: Final = Param("to", "End, exclusive: as from")
_LIMIT: Final = Param(
    "limit",
    "Most sessions",
    {"type": "integer", "minimum": 1, "maximum": KEYS_MAX, "default": KEYS_DEFAULT},
)
_CURSOR: Final = Param("cursor", "Cursor of the page before")

SESSION_OPERATIONS: Final = (
    Operation(
        "get",
        f"{PATH}/active/{{userId}}",
        "Sessions",
        "Open sessions of a user that were fed lately. Answered by the worker that owns the user.",
        (_USER, _TYPE),
        (200, 400, 404, 503, 504),
        UserAnswer,
    ),
    Operation(
        "get",
        f"{PATH}/{{userId}}",
        "Sessions",
        "Sessions of a user that began in the range, open and closed, oldest first.",
        (_USER, _TYPE, _FROM, _TO, _LIMIT, _CURSOR),
        (200, 400, 404, 503, 504),
        UserAnswer,
    ),
    Operation(
        "get",
        f"{PATH}/analytics",
        "Sessions",
        "Closed sessions by hour of their start: number, events, pages, duration, conversion; "
        "and how many are open. Over all workers; the last day when no range is given.",
        (_TYPE, _FROM, _TO),
        (200, 400, 503),
        SumsAnswer,
    ),
)
