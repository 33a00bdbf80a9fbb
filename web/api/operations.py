"""Every endpoint, described. A test holds this list against the router's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tables.windows.answer import STATES
from web.api.document import TEXT, Operation, Param, Schema
from web.api.params import CONSISTENCY, CURSOR, FROM, LIMIT, TO
from web.entities.operations import ENTITY_OPERATIONS
from web.gateway.body import BODY_BYTES_MAX
from web.gateway.logs import NDJSON, Accepted, BatchResults
from web.gateway.parse import BATCH_MAX
from web.queries.archive import KeyWindows
from web.queries.condition import Health, Ready
from web.queries.consumers import ConsumersAnswer
from web.queries.digests import LatencyDigest
from web.queries.ledger import LedgerAnswer
from web.queries.monitoring import Found
from web.queries.requests import HEADERS
from web.queries.session_operations import SESSION_OPERATIONS
from web.queries.trends import Trend, TrendHistory
from web.queries.views import Anomaly, ErrorRate, Latency
from web.queries.window_pages import WindowList

ENDPOINT: Final = Param("endpoint", "This endpoint alone")
KEYED: Final = (200, 400, 404, 503, 504)

_EVENT: Final = {
    "type": "object",
    "required": ["source"],
    "properties": {
        "event_id": {"type": "string", "format": "uuid"},
        "timestamp": {"oneOf": [{"type": "integer"}, {"type": "string", "format": "date-time"}]},
        "source": TEXT,
        "service": TEXT,
        "level": {"type": "string", "enum": ["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]},
        "type": TEXT,
        "message": TEXT,
        "endpoint": TEXT,
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "latency_ms": {"type": "number", "minimum": 0},
        "user_id": TEXT,
    },
}
_BATCH: Final = {"type": "array", "items": _EVENT, "minItems": 1, "maxItems": BATCH_MAX}
_LINES: Final = {
    "type": "string",
    "description": f"An event a line, at most {BATCH_MAX}",
    "examples": ['{"source": "shop", "message": "paid"}\n{"source": "shop", "status": 500}\n'],
}
_EVENTS: Final[Mapping[str, Schema]] = {
    "application/json": {"oneOf": [_EVENT, _BATCH]},
    **dict.fromkeys(sorted(NDJSON), _LINES),
}
_INGEST: Final = (
    "One event, or at most 1 000 as an array or as lines (NDJSON). 202 once the broker has "
    "acknowledged: the event's id, or what became of each item. The body is at most "
    f"{BODY_BYTES_MAX} bytes, also after decompression."
)
_INGESTED: Final = (202, 400, 403, 408, 413, 415, 429, 503)

_INGEST_OPERATIONS: Final = tuple(
    Operation(
        "post",
        path,
        "Ingest",
        _INGEST,
        answers=_INGESTED,
        answer=(Accepted, BatchResults),
        body=_EVENTS,
    )
    for path in ("/api/v1/logs", "/api/v1/logs/ingest")
)

_LIST: Final = (
    "With consistency=stale a partition whose owner does not answer is told by a standby of it, "
    "each partition once; standbys names them."
)
_WINDOWS: Final = (
    Operation(
        "get",
        "/api/v1/windows/{name}",
        "Windows",
        "Keys of a window with their newest window, of the newest eight days that have any. A page "
        "at a time, over all workers.",
        (Param("name", "Window of config/windows.yaml", where="path"), LIMIT, CURSOR),
        (200, 400, 404, 503),
        WindowList,
    ),
    Operation(
        "get",
        "/api/v1/windows/{name}/{key}",
        "Windows",
        "Windows of one key, oldest first. Answered by the worker that owns the key.",
        (
            Param("name", "Window of config/windows.yaml", where="path"),
            Param("key", "Key, such as an endpoint", where="path"),
            FROM,
            TO,
            Param("state", "Only windows that are", {"type": "string", "enum": list(STATES)}),
            CONSISTENCY,
        ),
        KEYED,
        KeyWindows,
    ),
    Operation(
        "get",
        "/metrics/requests",
        "Monitoring",
        f"Events per endpoint over the last five minutes. The busiest 1 000. {_LIST}",
        (CONSISTENCY,),
        (200, 503),
        answer=dict[str, int],
        headers=HEADERS,
    ),
    Operation(
        "get",
        "/metrics/errors",
        "Monitoring",
        f"Error rate per endpoint, by status class and code, over five minutes. {_LIST}",
        (ENDPOINT, CONSISTENCY),
        (200, 503),
        Found[ErrorRate],
    ),
    Operation(
        "get",
        "/metrics/latency",
        "Monitoring",
        f"Latency quantiles per endpoint over the last five minutes. {_LIST}",
        (ENDPOINT, CONSISTENCY),
        (200, 503),
        Found[Latency],
    ),
    Operation(
        "get",
        "/metrics/latency/digest",
        "Monitoring",
        "An endpoint's latencies over a range (else the last five minutes) as one t-digest: its "
        "quantiles, and centroids that merge with those of other endpoints and ranges.",
        (Param("endpoint", "The endpoint; needed"), FROM, TO, CONSISTENCY),
        KEYED,
        LatencyDigest,
    ),
    Operation(
        "get",
        "/metrics/anomalies",
        "Monitoring",
        "Closed minutes beyond three sigma of the sixty before them. A minute without a request "
        "has no window: it is neither judged nor a part of what others are judged by. A standby "
        f"judges by what it has, which its owner's next commits may change. {_LIST}",
        (ENDPOINT, CONSISTENCY),
        (200, 503),
        Found[Anomaly],
    ),
)

_SERVICE: Final = Param("service", "Service", where="path")
_TRENDS: Final = (
    Operation(
        "get",
        "/trends",
        "Trends",
        "Moving figures of all services together. Of the last hop boundary.",
        (CONSISTENCY,),
        answers=(200, 503, 504),
        answer=Trend,
    ),
    Operation(
        "get",
        "/trends/{service}",
        "Trends",
        "Moving figures of a service over 1, 5 and 15 minutes. Kept until the next hop, unless a "
        "standby may answer.",
        (_SERVICE, CONSISTENCY),
        (200, 404, 503, 504),
        Trend,
    ),
    Operation(
        "get",
        "/trends/{service}/history",
        "Trends",
        "Windows of one size at each step of a range.",
        (
            _SERVICE,
            Param("window", "Label of the size, such as 1m"),
            FROM,
            TO,
            Param("step", "Between windows: such as 1m, or milliseconds; a multiple of the hop"),
            CONSISTENCY,
        ),
        KEYED,
        TrendHistory,
    ),
)

_WORKER: Final = (
    Operation(
        "get",
        "/api/v1/ledger",
        "Operations",
        "How every record of every source partition ended. In = applied + late + duplicate "
        "+ rejected.",
        answers=(200, 503),
        answer=LedgerAnswer,
    ),
    Operation(
        "get",
        "/api/v1/consumers",
        "Operations",
        "How far every partition is read, and by whom: position, committed, lag, batch size, "
        "paused.",
        answers=(200, 503),
        answer=ConsumersAnswer,
    ),
    Operation(
        "get",
        "/ready",
        "Operations",
        "Whether every partition is restored. 503 names what is awaited.",
        answers=(200, 503),
        answer=Ready,
    ),
    Operation(
        "get",
        "/api/v1/health",
        "Operations",
        "Whether every partition moves. 503 names those that do not, and why.",
        answers=(200, 503),
        answer=Health,
    ),
    Operation(
        "get",
        "/metrics",
        "Operations",
        "Prometheus text",
        answers=(200,),
        content="text/plain",
    ),
    Operation(
        "get",
        "/ws/metrics",
        "Monitoring",
        "WebSocket: the live page's figures, each second",
        answers=(101, 403, 503),
    ),
)

OPERATIONS: Final = (
    *_INGEST_OPERATIONS,
    *_WINDOWS,
    *_TRENDS,
    *SESSION_OPERATIONS,
    *ENTITY_OPERATIONS,
    *_WORKER,
)
