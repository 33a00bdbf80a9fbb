"""Dead letters and late records: the record as it was read, and why it is here. Pure."""

from __future__ import annotations

import hashlib
import re

from app.engine.batch import Headers, RecordBatch
from app.engine.effects import Late, Output, Reject

HEADERS_KEPT_MAX = 32
HEADER_KEPT_MAX = 1024
KEY_KEPT_MAX = 16 << 10
ROOM_FOR_THE_REST = 96 << 10
"""Bytes that key, headers and the record's own framing can take."""
ERROR_MESSAGE_MAX = 1024
_VARYING = re.compile(r"[0-9a-f]{8,}|\d+")


def error_signature(kind: str, reason: str) -> str:
    """First 16 hex digits of SHA-256 over kind and reason without numbers and ids."""
    normal = f"{kind}:{_VARYING.sub('#', reason)}"
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()[:16]


def _origin(
    batch: RecordBatch, index: int, room: int
) -> tuple[Headers, bytes | None, bytes | None]:
    """Coordinates and headers, key, value: together no larger than ``room``.

    What is too large to be written again (its own headers are added, and it may have come
    compressed) is cut, and ``original_bytes`` says how long the value was.
    """
    kept = [
        (name[:HEADER_KEPT_MAX], value[:HEADER_KEPT_MAX] if value else value)
        for name, value in batch.headers[index][:HEADERS_KEPT_MAX]
    ]
    headers = [
        *kept,
        ("original_topic", batch.topic.encode()),
        ("original_partition", b"%d" % batch.partition),
        ("original_offset", b"%d" % batch.offsets[index]),
    ]
    key, value = batch.keys[index], batch.values[index]
    if key is not None:
        key = key[:KEY_KEPT_MAX]
    most = max(0, room - ROOM_FOR_THE_REST)
    if value is not None and len(value) > most:
        headers.append(("original_bytes", b"%d" % len(value)))
        value = value[:most]
    return headers, key, value


def dead_letter(
    topic: str, batch: RecordBatch, reject: Reject, now_ms: int, record_bytes_max: int
) -> Output:
    """Record for the dead-letter topic: original bytes and headers, coordinates, reason.

    ``now_ms`` is when the record was given up, the time of its last failure.
    """
    first_ms = now_ms if reject.first_failed_ms is None else reject.first_failed_ms
    reason = reject.said
    origin, key, value = _origin(batch, reject.index, record_bytes_max)
    headers = [
        *origin,
        ("error_type", reject.kind.encode()),
        ("error_signature", error_signature(reject.kind, reason).encode()),
        ("error_message", reason.encode("utf-8", "replace")[:ERROR_MESSAGE_MAX]),
        ("attempt_count", b"%d" % reject.attempts),
        ("first_failure_timestamp", b"%d" % first_ms),
        ("last_failure_timestamp", b"%d" % now_ms),
    ]
    return Output(topic, key, value, headers)


def late_record(topic: str, batch: RecordBatch, late: Late, record_bytes_max: int) -> Output:
    """Record for the late topic: original bytes and headers, the table, how late it was."""
    origin, key, value = _origin(batch, late.index, record_bytes_max)
    headers = [
        *origin,
        ("table", late.table.encode()),
        ("lateness_ms", b"%d" % late.lateness_ms),
        ("reason", b"event time is before the watermark less the window's grace"),
    ]
    return Output(topic, key, value, headers)
