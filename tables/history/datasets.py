"""What is archived: one dataset for each topic, its columns, and how a record becomes a row. Pure.

A dataset takes what is well-formed and of the agreed shape, and :class:`NotARowError` says
why a record is not. Fields it does not know are left out: they come with a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec
import pyarrow as pa

from app.models.moments import EPOCH_MS_MAX
from app.models.rules import RuleError, parse_timestamp

INT64_MAX: Final = (1 << 63) - 1

Ms = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MS_MAX)]
Whole = Annotated[int, msgspec.Meta(ge=-INT64_MAX, le=INT64_MAX)]
_T = TypeVar("_T")
Cell = str | int | float | bool | list[str] | None
Row = tuple[Cell, ...]
"""Cells in the order of the dataset's columns."""


class NotARowError(Exception):
    """A record that cannot be archived; the text says why."""


class ColdWindow(msgspec.Struct, frozen=True, gc=False):
    """A closed window of one key. Statistics are in ms, None without values.

    ``start`` and ``end`` are half-open; ``codes`` are events by status code, None where the
    window does not count them.
    """

    start: Ms
    end: Ms
    revision: Whole
    count: Whole
    errors: Whole = 0
    sum: float | None = None
    avg: float | None = None
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    stddev: float | None = None
    distinct: Whole | None = None
    late: Whole = 0
    codes: Mapping[str, Whole] | None = None


class ArchivedWindow(ColdWindow, frozen=True, gc=False, kw_only=True):
    """One revision of a closed window, as its record tells it."""

    id: str
    name: str
    key: str


class ArchivedSession(msgspec.Struct, frozen=True, gc=False):
    """One revision of a closed session; ``supersedes`` are ids of sessions it was merged from."""

    id: str
    type: str
    user: str
    start: Ms
    end: Ms
    revision: Whole
    count: Whole
    pages: Whole
    steps: list[str]
    converted: bool
    supersedes: list[str]
    duration_ms: Whole


class ColdEntityEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of an entity's history.

    ``offset`` is its place in ``entity-events``, in the partition of the entity's key; an
    event that came without an id has None. ``attributes`` is a JSON object.
    """

    offset: int
    op: str
    version: int
    timestamp: int
    event_id: str | None
    attributes: msgspec.Raw
    ingest_ts: int


class _EntityValue(msgspec.Struct, frozen=True):
    op: str
    version: Whole
    event_id: str | None = None
    timestamp: str | int | float | None = None
    attributes: msgspec.Raw = msgspec.Raw(b"{}")


@dataclass(frozen=True, slots=True)
class Taken:
    """A record as a row, with the bounds of its event times (epoch ms, both included)."""

    row: Row
    min_ms: int
    max_ms: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """One archive. ``schema`` begins with ``offset``, which ``take`` leaves to its caller.

    ``sort`` are the columns merged files are sorted by, so that a query finds its key's rows
    together. ``start`` names the column of event time.
    """

    name: str
    topic: str
    schema: pa.Schema
    sort: tuple[str, ...]
    start: str
    take: Callable[[bytes | None, bytes | None, int], Taken]
    """``take(key, value, append_ms)``; raises :class:`NotARowError`."""

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that say whose row it is: ``sort`` begins with them."""
        return self.sort[:2]

    @property
    def columns(self) -> list[str]:
        """Names of the columns after ``offset``."""
        return list(self.schema.names[1:])


_window_decoder: Final = msgspec.json.Decoder(ArchivedWindow)
_session_decoder: Final = msgspec.json.Decoder(ArchivedSession)
_entity_decoder: Final = msgspec.json.Decoder(_EntityValue)


def _take_window(_key: bytes | None, value: bytes | None, _append_ms: int) -> Taken:
    one = _decoded(_window_decoder, value)
    if one.start >= one.end:
        raise NotARowError(f"start {one.start} is not before end {one.end}")
    *cells, codes = _cells(one, WINDOWS)
    text = None if codes is None else msgspec.json.encode(codes).decode()
    return Taken((*cells, text), one.start, one.start)


def _take_session(_key: bytes | None, value: bytes | None, _append_ms: int) -> Taken:
    one = _decoded(_session_decoder, value)
    if one.start > one.end:
        raise NotARowError(f"start {one.start} is after end {one.end}")
    return Taken(tuple(_cells(one, SESSIONS)), one.start, one.end)


def _take_entity(key: bytes | None, value: bytes | None, append_ms: int) -> Taken:
    try:
        type_, colon, entity_id = (key or b"").decode().partition(":")
    except UnicodeDecodeError as exc:
        raise NotARowError("the key is not UTF-8") from exc
    if not type_ or not colon or not entity_id:
        raise NotARowError("the key is not type:id")
    one = _decoded(_entity_decoder, value)
    try:
        moment = append_ms if one.timestamp is None else parse_timestamp(one.timestamp)
    except RuleError as exc:
        raise NotARowError(f"timestamp {exc}") from exc
    moment = max(0, moment)
    attributes = bytes(one.attributes).decode()
    row = (type_, entity_id, one.op, one.version, moment, one.event_id, attributes, append_ms)
    return Taken(row, moment, moment)


def _cells(one: msgspec.Struct, dataset: Dataset) -> list[Cell]:
    return [getattr(one, name) for name in dataset.columns]


def _decoded(decoder: msgspec.json.Decoder[_T], value: bytes | None) -> _T:
    if value is None:
        raise NotARowError("the record has no value")
    try:
        return decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise NotARowError(str(exc)) from exc


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([("offset", pa.int64()), *columns.items()])


_TEXT, _WHOLE, _FLOAT, _TEXTS = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.string())

WINDOWS: Final = Dataset(
    "windows",
    "windows-final",
    _schema(
        id=_TEXT,
        name=_TEXT,
        key=_TEXT,
        start=_WHOLE,
        end=_WHOLE,
        revision=_WHOLE,
        count=_WHOLE,
        errors=_WHOLE,
        sum=_FLOAT,
        avg=_FLOAT,
        min=_FLOAT,
        max=_FLOAT,
        p50=_FLOAT,
        p95=_FLOAT,
        p99=_FLOAT,
        stddev=_FLOAT,
        distinct=_WHOLE,
        late=_WHOLE,
        codes=_TEXT,
    ),
    ("name", "key", "start", "offset"),
    "start",
    _take_window,
)
SESSIONS: Final = Dataset(
    "sessions",
    "sessions-closed",
    _schema(
        id=_TEXT,
        type=_TEXT,
        user=_TEXT,
        start=_WHOLE,
        end=_WHOLE,
        revision=_WHOLE,
        count=_WHOLE,
        pages=_WHOLE,
        steps=_TEXTS,
        converted=pa.bool_(),
        supersedes=_TEXTS,
        duration_ms=_WHOLE,
    ),
    ("type", "user", "start", "offset"),
    "start",
    _take_session,
)
ENTITIES: Final = Dataset(
    "entities",
    "entity-events",
    _schema(
        type=_TEXT,
        id=_TEXT,
        op=_TEXT,
        version=_WHOLE,
        timestamp=_WHOLE,
        event_id=_TEXT,
        attributes=_TEXT,
        ingest_ts=_WHOLE,
    ),
    ("type", "id", "offset"),
    "timestamp",
    _take_entity,
)
DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset for dataset in (WINDOWS, SESSIONS, ENTITIES)
}
