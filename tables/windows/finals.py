"""Final windows: how often each has been written, and the record that is written. Pure.

Row key of the table ``finals``: the window's name, NUL, then as in :mod:`tables.windows.keys`
(the period is that of the window's start).
"""

from __future__ import annotations

import hashlib

import msgspec

from app.engine.effects import TableSpec
from tables import sketch
from tables.packed import Packed
from tables.windows.figures import Quantiles, codes_of, figures_of
from tables.windows.keys import key_rows, period_rows, row_key
from tables.windows.stats import WindowStats
from tables.windows.stored import StoredStats
from tables.windows.window import WindowSpec

FINALS_TABLE = "finals"


class Written(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was written of a window last.

    ``count`` events were in it, the latest of them of ``fed_ms`` (ingest time). ``meaning`` is
    the identity of the window's declaration, ``updated_ms`` when it was written (wall clock).
    ``quantiles`` are those of the record; None: it has none, or they were not kept.
    ``oldest_ms`` is the ingest time of the latest event of that pane which was fed the longest
    ago: from then the retention of the first pane to go counts.
    """

    revision: int
    count: int
    meaning: str
    updated_ms: int
    fed_ms: int = 0
    quantiles: Quantiles | None = None
    oldest_ms: int | None = None

    def may_miss_panes(self, spec: WindowSpec, now_ms: int) -> bool:
        """Whether a pane that was in it may have expired: what is left is not all of it."""
        old = self.oldest_ms is not None and now_ms - self.oldest_ms >= spec.retention_ms
        return old and self.meaning == spec.identity

    def quantiles_of(self, stats: WindowStats | StoredStats, spec: WindowSpec) -> Quantiles | None:
        """Those of a window's state, if nothing came after it was written; None: look."""
        same = self.count == stats.count and self.fed_ms == stats.updated_ms
        return self.quantiles if same and self.meaning == spec.identity else None


class Revisions(Packed[Written]):
    """The highest revision wins."""

    kind = Written

    def merge(self, left: Written, right: Written) -> Written:
        """The later of both."""
        return max(left, right, key=lambda w: (w.revision, w.count, w.meaning, w.updated_ms))


def finals_table() -> TableSpec:
    """The table of what was written, one per partition of the global stage."""
    return TableSpec(FINALS_TABLE, "final-2", Revisions())


def final_key(name: str, key: str, start_ms: int) -> bytes:
    """Row key of a window's revisions; names hold no NUL."""
    return name.encode() + b"\0" + row_key(key, start_ms)


def finals_of_key(
    name: str, key: str, period_ms: int, from_ms: int, to_ms: int
) -> tuple[bytes, bytes]:
    """``[lo, hi)`` of the rows of a key's windows that start in a period and in the range."""
    lo, hi = key_rows(key, period_ms, from_ms, to_ms)
    return name.encode() + b"\0" + lo, name.encode() + b"\0" + hi


def finals_of_period(name: str, start_ms: int) -> tuple[bytes, bytes]:
    """``[lo, hi)`` of the rows of all windows that start in the period of ``start_ms``."""
    lo, hi = period_rows(start_ms)
    return name.encode() + b"\0" + lo, name.encode() + b"\0" + hi


class WindowRecord(msgspec.Struct, frozen=True):
    """A window as ``windows-final`` (and ``windows-updates``) tell of it.

    ``start`` and ``end`` are epoch ms, half-open; figures are in the field's own unit (ms of
    latency), null where there is none. ``id`` names window and revision; an update of a window
    that is not final yet has none, and the revision that was written last (0: none).
    """

    id: str | None
    name: str
    key: str
    start: int
    end: int
    revision: int
    count: int
    errors: int
    sum: float | None
    avg: float | None
    min: float | None
    max: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    stddev: float | None
    distinct: int | None
    late: int
    codes: dict[str, int] | None


_record_encoder = msgspec.json.Encoder()
decode_record = msgspec.json.Decoder(WindowRecord).decode


def encode_record(record: WindowRecord) -> bytes:
    """JSON of the fields in order."""
    return _record_encoder.encode(record)


def final_id(name: str, key: str, start_ms: int, revision: int) -> str:
    """First 32 hex digits of SHA-256 over ``name|key|start|revision``."""
    text = f"{name}|{key}|{start_ms}|{revision}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def window_record(
    spec: WindowSpec, key: str, start_ms: int, stats: WindowStats, revision: int, *, final: bool
) -> WindowRecord:
    """The record of a window's state."""
    figures = figures_of(stats)
    return WindowRecord(
        final_id(spec.name, key, start_ms, revision) if final else None,
        spec.name,
        key,
        start_ms,
        start_ms + spec.size_ms,
        revision,
        stats.count,
        stats.errors,
        figures.sum,
        figures.avg,
        figures.min,
        figures.max,
        figures.p50,
        figures.p95,
        figures.p99,
        figures.stddev,
        sketch.estimate(stats.distinct) if spec.distinct is not None else None,
        stats.late,
        codes_of(stats) if spec.codes else None,
    )


def written_as(
    spec: WindowSpec,
    stats: WindowStats,
    record: WindowRecord,
    now_ms: int,
    oldest_ms: int | None = None,
) -> Written:
    """What is remembered of a final record of a window's state; see :class:`Written`."""
    p50, p95, p99 = record.p50, record.p95, record.p99
    quantiles = None if p50 is None or p95 is None or p99 is None else (p50, p95, p99)
    return Written(
        record.revision,
        stats.count,
        spec.identity,
        now_ms,
        stats.updated_ms,
        quantiles,
        oldest_ms,
    )
