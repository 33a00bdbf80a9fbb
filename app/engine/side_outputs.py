"""Dead letters and late records: the record as it was read, and why it is here. Pure."""

from __future__ import annotations

import hashlib
import re

from app.engine.batch import RecordBatch
from app.engine.effects import Late, Output, Reject

HEADERS_KEPT_MAX = 32
ERROR_MESSAGE_MAX = 1024
_VARYING = re.compile(r"[0-9a-f]{8,}|\d+")


def error_signature(kind: str, reason: str) -> str:
    """First 16 hex digits of SHA-256 over kind and reason without numbers and ids."""
    normal = f"{kind}:{_VARYING.sub('#', reason)}"
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()[:16]


def _origin(batch: RecordBatch, index: int) -> list[tuple[str, bytes]]:
    return [
        *list(batch.headers[index])[:HEADERS_KEPT_MAX],
        ("original_topic", batch.topic.encode()),
        ("original_partition", b"%d" % batch.partition),
        ("original_offset", b"%d" % batch.offsets[index]),
    ]


def dead_letter(topic: str, batch: RecordBatch, reject: Reject, now_ms: int) -> Output:
    """Record for the dead-letter topic: original bytes and headers, coordinates, reason."""
    i = reject.index
    reason = f"{reject.field}: {reject.reason}" if reject.field else reject.reason
    headers = [
        *_origin(batch, i),
        ("error_type", reject.kind.encode()),
        ("error_signature", error_signature(reject.kind, reason).encode()),
        ("error_message", reason.encode("utf-8", "replace")[:ERROR_MESSAGE_MAX]),
        ("attempt_count", b"1"),
        ("first_failure_timestamp", b"%d" % now_ms),
        ("last_failure_timestamp", b"%d" % now_ms),
    ]
    return Output(topic, batch.keys[i], batch.values[i], headers)


def late_record(topic: str, batch: RecordBatch, late: Late) -> Output:
    """Record for the late topic: original bytes and headers, the table, how late it was."""
    i = late.index
    headers = [
        *_origin(batch, i),
        ("table", late.table.encode()),
        ("lateness_ms", b"%d" % late.lateness_ms),
        ("reason", b"event time is before the watermark less the window's grace"),
    ]
    return Output(topic, batch.keys[i], batch.values[i], headers)
