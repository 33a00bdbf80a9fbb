"""The sessions' endpoints, described for the API document."""

from __future__ import annotations

from typing import Final

from web.api.document import Operation, Param
from web.api.params import CONSISTENCY, CURSOR, FROM, LIMIT, TO
from web.queries.session_sums import PATH, SumsAnswer
from web.queries.sessions import UserAnswer

_TYPE: Final = Param("type", "Kind of session of config/sessions.yaml; the first when absent")
_USER: Final = Param("userId", "Whose sessions: a value of the key of that kind", where="path")

SESSION_OPERATIONS: Final = (
    Operation(
        "get",
        f"{PATH}/active/{{userId}}",
        "Sessions",
        "Open sessions of a user that were fed lately. Answered by the worker that owns the user.",
        (_USER, _TYPE, CONSISTENCY),
        (200, 400, 404, 503, 504),
        UserAnswer,
    ),
    Operation(
        "get",
        f"{PATH}/{{userId}}",
        "Sessions",
        "Sessions of a user that began in the range, open and closed, oldest first.",
        (_USER, _TYPE, FROM, TO, LIMIT, CURSOR, CONSISTENCY),
        (200, 400, 404, 503, 504),
        UserAnswer,
    ),
    Operation(
        "get",
        f"{PATH}/analytics",
        "Sessions",
        "Closed sessions by hour of their start: number, events, pages, duration, conversion; "
        "and how many are open. Over all workers; the last day when no range is given.",
        (_TYPE, FROM, TO),
        (200, 400, 503),
        SumsAnswer,
    ),
)
