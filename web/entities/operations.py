"""The entities' endpoints, described for the API document."""

from __future__ import annotations

from typing import Final

from tables.entities.event import OPS, VERSION_MAX
from web.api.document import Operation, Param
from web.api.params import CONSISTENCY, CURSOR, FROM, LIMIT, TO
from web.entities.asked import PATH
from web.entities.comparing import Report
from web.entities.gateway import ChangeAccepted
from web.entities.histories import EntityEvents
from web.entities.listing import EntityList
from web.entities.reads import EntityAnswer
from web.entities.rebuild import PATH as REBUILD

_TYPE: Final = Param("type", "Entity type of config/entities.yaml", where="path")
_ID: Final = Param("id", "Id of the entity", where="path")
_CHANGE: Final = {
    "type": "object",
    "required": ["op", "version"],
    "properties": {
        "op": {"type": "string", "enum": list(OPS)},
        "version": {"type": "integer", "minimum": 1, "maximum": VERSION_MAX},
        "timestamp": {"oneOf": [{"type": "integer"}, {"type": "string", "format": "date-time"}]},
        "event_id": {"type": "string", "format": "uuid"},
        "attributes": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    },
}

ENTITY_OPERATIONS: Final = (
    Operation(
        "post",
        f"{PATH}/{{type}}/{{id}}",
        "Entities",
        "Register, update or deregister: all attributes, and a version higher than the last. "
        "202 once the broker has acknowledged; an older version changes nothing.",
        (_TYPE, _ID),
        (202, 400, 403, 408, 413, 415, 429, 503),
        ChangeAccepted,
        {"application/json": _CHANGE},
    ),
    Operation(
        "post", f"{PATH}/{{type}}", "Entities", "Always 400: the id is missing", (_TYPE,), (400,)
    ),
    Operation(
        "get",
        f"{PATH}/{{type}}/{{id}}",
        "Entities",
        "The latest state; 410 once deregistered. At most a second old, or as old as it says "
        "where a standby may answer.",
        (_TYPE, _ID, CONSISTENCY),
        (200, 400, 404, 410, 503, 504),
        EntityAnswer,
    ),
    Operation(
        "get",
        f"{PATH}/{{type}}/{{id}}/history",
        "Entities",
        "The newest events of an entity, newest first. With from, those that only the archive "
        "has as well.",
        (_TYPE, _ID, FROM, TO, LIMIT, CURSOR, CONSISTENCY),
        (200, 400, 404, 503, 504),
        EntityEvents,
    ),
    Operation(
        "get",
        f"{PATH}/{{type}}",
        "Entities",
        "Live entities in order of their ids, over all workers. Only a null cursor is the end.",
        (_TYPE, LIMIT, CURSOR),
        (200, 400, 404, 503),
        EntityList,
    ),
    Operation(
        "post",
        REBUILD,
        "Entities",
        "Restore the asked worker's entities anew from the beginning of their changelog, and hold "
        "the tables of all workers against entity-state, read from offset 0. Until they are "
        "restored the asked worker stands still with every partition it owns, of all topics: it "
        "processes nothing, and answers 503 for its windows, sessions and entities (a standby on "
        "another worker answers, asked with consistency=stale). GET /ready says how far it is. It "
        "goes on to accept events, and what it does not process waits in Kafka. The other workers "
        "go on: ask one after the other.",
        answers=(202, 401, 403, 409),
        answer=Report,
        admin=True,
    ),
    Operation(
        "get",
        f"{REBUILD}/{{report}}",
        "Entities",
        "How a rebuild of this worker goes, or went.",
        (Param("report", "Id of the report", where="path"),),
        (200, 401, 403, 404),
        Report,
        admin=True,
    ),
)
