"""What one record says, read by the auditor's own lights. Pure.

A record becomes a vector of numbers, and vectors are added: ``records``, ``checksum``, then
two numbers for each window. Checksums are sums of 64-bit hashes of event ids (taken modulo
2^64 where they are compared), so order is irrelevant and duplicates are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from uuid import UUID, uuid5

import msgspec

from agents.topics import SESSIONS_CLOSED, WINDOWS_FINAL
from app.models.rules import ALIASES
from tables.sessions.spec import SessionSpec
from tables.windows.spec import WindowSpec
from tables.windows.window import GLOBAL_KEY

Vector = tuple[int, ...]
Told = tuple[int, Vector]
"""Of a source partition: the offset committed with an epoch's chunks, and what they say of it."""
RECORDS, CHECKSUM, WINDOWS = range(3)
"""Places in a vector. Window ``w`` has ``WINDOWS + 2 * w`` (events: with the key; partials
and rows: counted) and the place after it (late records, partials and rows: late)."""

_MODULUS: Final = 1 << 64
_RECORD_IDS: Final = UUID("6a1c3f0e-52d7-5b0b-9f5e-3c8d7a2b4e11")
"""Namespace of the ids given to events that came without one (a test pins it)."""
_ID_NAMES: Final = ("event_id", *ALIASES["event_id"])
_KEYS: Final = ("service", "endpoint")
"""Key fields that the auditor reads of an event."""
_ROW_KEY: Final = slice(10, -8)
"""The key in a row's key: behind its period and its length, before the row's start."""
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Window:
    """A configured window, as far as the auditor needs it.

    Each event is in one pane, so panes add up to events whatever the kind of window. ``key``
    None: the auditor cannot tell which events belong to the window, and compares nothing.
    ``everything``: key of a row that holds what the others hold.
    """

    name: str
    key: str | None
    identity: str
    retention_ms: int
    everything: str | None = None


@dataclass(frozen=True, slots=True)
class Audited:
    """What is configured, as far as the auditor needs it.

    ``unique_ms``: within which time, by topic, no final may come twice. Once the engine has
    let go of a row, what comes again (an old file, shipped once more) is written again.
    """

    windows: tuple[Window, ...]
    unique_ms: Mapping[str, int]


def audited(specs: Sequence[WindowSpec], sessions: Iterable[SessionSpec]) -> Audited:
    """What the auditor needs of the configured windows and kinds of sessions."""
    windows = tuple(
        Window(
            s.name,
            s.key if s.key in _KEYS and not s.where else None,
            s.identity,
            s.retention_ms,
            GLOBAL_KEY if s.global_row else None,
        )
        for s in specs
    )
    # Half the retention: a row's began with its last event, before the final was written.
    kept_ms = {
        WINDOWS_FINAL: max((s.retention_ms for s in specs), default=0),
        SESSIONS_CLOSED: min((s.retention_ms for s in sessions), default=0),
    }
    return Audited(windows, {topic: ms // 2 for topic, ms in kept_ms.items()})


@dataclass(frozen=True, slots=True)
class Row:
    """A window's row: ``window`` is its place among the configured ones."""

    window: int
    count: int
    late: int


class _Id(msgspec.Struct, gc=False):
    event_id: str | None = None


class _Event(msgspec.Struct, gc=False):
    event_id: str | None = None
    service: str | None = None
    endpoint: str | None = None


class _Stats(msgspec.Struct, array_like=True, gc=False):
    """The leading fields of a stored window; the histogram is not looked into."""

    count: int
    errors: int
    n: int
    sum: int
    min: int | None
    max: int | None
    hist: msgspec.Raw
    late: int


class _Chunk(msgspec.Struct, array_like=True, gc=False):
    lanes: msgspec.Raw
    partials: list[bytes]
    positions: dict[int, int] = {}
    counted: dict[str, dict[int, tuple[int, int]]] = {}


_read_id = msgspec.json.Decoder(_Id).decode
_read_event = msgspec.json.Decoder(_Event).decode
_read_any = msgspec.json.Decoder().decode
_read_stats = msgspec.msgpack.Decoder(_Stats).decode
_read_chunk = msgspec.msgpack.Decoder(_Chunk).decode
_read_partial = msgspec.msgpack.Decoder(tuple[tuple[str, str, int], _Stats]).decode


def id_hash(event_id: str) -> int:
    """64-bit hash of an event id."""
    raw = event_id.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big")


def same_checksum(left: int, right: int) -> bool:
    """Whether two sums of hashes are equal modulo 2^64."""
    return (left - right) % _MODULUS == 0


def total(vectors: Iterable[Sequence[int]], width: int) -> list[int]:
    """Sum of vectors, place by place."""
    columns = list(zip(*vectors, strict=True))
    return [sum(column) for column in columns] if columns else [0] * width


def event_id_of(topic: str, partition: int, offset: int, value: bytes | None) -> str:
    """Id of a shipper's record as its event must carry it.

    A record without one is named after its coordinates, and so is one that is no event: it
    must be found again among the dead letters, which carry the same coordinates and bytes.
    """
    given: object = None
    if value is not None:
        try:
            given = _read_id(value).event_id
        except _DECODE_ERRORS:
            given = None
        if given is None:
            given = _loose_id(value)
    if given is None:
        return str(uuid5(_RECORD_IDS, f"{topic}/{partition}/{offset}"))
    text = str(given)
    if len(text) == 36 and text == text.lower():
        return text
    try:
        return str(UUID(text))
    except ValueError:
        return text


def _loose_id(value: bytes) -> object:
    try:
        fields = _read_any(value)
    except _DECODE_ERRORS:
        return None
    if not isinstance(fields, dict):
        return None
    return next((fields[n] for n in _ID_NAMES if fields.get(n) is not None), None)


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads records into vectors, for these windows.

    A value of ``large_bytes`` or more may have been cut as a dead letter: it is known by
    its coordinates alone, wherever it is met.
    """

    windows: tuple[Window, ...]
    large_bytes: int

    @property
    def width(self) -> int:
        """Places of a vector."""
        return WINDOWS + 2 * len(self.windows)

    def shipped(self, topic: str, partition: int, offset: int, value: bytes | None) -> Vector:
        """A record of a shipper's topic."""
        whole = None if value is not None and len(value) >= self.large_bytes else value
        checksum = id_hash(event_id_of(topic, partition, offset, whole))
        return (1, checksum, *(0,) * (2 * len(self.windows)))

    def event(self, value: bytes | None) -> Vector:
        """A record of ``log-events``."""
        try:
            event = _read_event(b"" if value is None or len(value) >= self.large_bytes else value)
        except _DECODE_ERRORS:
            return self.counted()
        checksum = 0 if event.event_id is None else id_hash(event.event_id)
        keyed: list[int] = []
        for window in self.windows:
            has_key = window.key is not None and getattr(event, window.key) is not None
            keyed += (int(has_key), 0)
        return (1, checksum, *keyed)

    def late_event(self, value: bytes | None, table: str) -> Vector:
        """A late record made of one of ``log-events``: which window called it late, if one did."""
        vector = list(self.event(value))
        for w, window in enumerate(self.windows):
            vector[WINDOWS + 2 * w + 1] = int(window.name == table)
        return tuple(vector)

    def counted(self) -> Vector:
        """A record that is counted and not looked into."""
        return (1, *(0,) * (self.width - 1))

    def chunk(self, value: bytes | None) -> tuple[Mapping[int, Told], Vector]:
        """A record of ``window-partials``: what it tells of its epoch's sources, and its sums."""
        sums = [0] * self.width
        sums[RECORDS] = 1
        told: dict[int, list[int]] = {}
        places = {
            window.name: (WINDOWS + 2 * w, window.everything)
            for w, window in enumerate(self.windows)
            if window.key is not None
        }
        try:
            chunk = _read_chunk(value or b"")
            for raw in chunk.partials:
                (name, key, _), stats = _read_partial(raw)
                place, everything = places.get(name, (None, None))
                if place is not None and key != everything:
                    sums[place] += stats.count
                    sums[place + 1] += stats.late
        except _DECODE_ERRORS:
            return {}, self.counted()
        for name, sources in chunk.counted.items():
            place, _ = places.get(name, (None, None))
            if place is not None:
                for source, numbers in sources.items():
                    told.setdefault(source, [0] * self.width)[place : place + 2] = numbers
        positions = chunk.positions
        return {s: (positions.get(s, 0), tuple(each)) for s, each in told.items()}, tuple(sums)

    def row(self, key: bytes, value: bytes | None) -> tuple[int, Row | None] | None:
        """A changelog record of a window: (its place, the row; None: deleted).

        None for a record of another table, for a row that is not compared, and for one of a
        window that is no longer configured as it was. One that cannot be read has the place -1.
        """
        identity, separator, row = key.partition(b"\0")
        if not separator or not identity.startswith(b"window-"):
            return None
        known = [w for w, each in enumerate(self.windows) if each.identity.encode() == identity]
        if not known:
            return None
        window, every = self.windows[known[0]], self.windows[known[0]].everything
        if window.key is None or (every is not None and row[_ROW_KEY] == every.encode()):
            return None
        if value is None:
            return known[0], None
        try:
            stats = _read_stats(value)
        except _DECODE_ERRORS:
            return -1, None
        return known[0], Row(known[0], stats.count, stats.late)
