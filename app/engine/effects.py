"""What a step answers: everything a batch changes, as data.

A step is a pure function ``step(batch, view, now_ms) -> Effects``. The engine applies
the effects in the same turn of the event loop in which it takes the batch as done, so
state, outputs and offsets can never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

import msgspec

from app.engine.batch import Headers, RecordBatch
from app.engine.lanes import Lanes
from app.engine.reading import Reading

S = TypeVar("S")
KeyRange = tuple[bytes, bytes]
"""``[lo, hi)`` of row keys."""


class Aggregate(Protocol[S]):
    """A commutative monoid with a stable encoding: the only kind of state the engine keeps.

    ``merge`` must be associative and commutative and must not change its arguments.
    ``decode(encode(s)) == s``.
    """

    def merge(self, left: S, right: S) -> S:
        """Both, combined."""
        ...

    def encode(self, state: S) -> bytes:
        """Bytes for RocksDB and the changelog."""
        ...

    def decode(self, raw: bytes) -> S:
        """Inverse of :meth:`encode`."""
        ...


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table of the engine: RocksDB column family plus its share of the changelog.

    ``identity`` must change whenever the meaning of stored bytes does: it is part of
    every changelog key, so old state is never read with a new meaning.
    """

    name: str
    identity: str
    aggregate: Aggregate[Any]


@dataclass(frozen=True, slots=True)
class Repartition:
    """Re-keying by partial aggregates: the local stage's only output to the global stage.

    Partials of an epoch are merged per map key first, whatever partitions of the topic they come
    from, then packed into few records per destination partition. ``route`` gives the Kafka key
    whose hash picks the partition; ``encode``/``decode`` turn one ``(map key, partial)`` into
    bytes and back.
    """

    topic: str
    route: Callable[[Any], bytes]
    merge: Callable[[Any, Any], Any]
    encode: Callable[[Any, Any], bytes]
    decode: Callable[[bytes], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Partials:
    """What records come to, by map key, for one repartition topic.

    ``counted``: name of what the agent counts -> source partition -> how many of its records
    are counted in ``values``, and how many are called late there. Only auditors look at it.
    """

    repartition: Repartition
    values: Mapping[Any, Any]
    counted: Mapping[str, Mapping[int, tuple[int, int]]] = field(default_factory=dict)


class Gathered(Protocol):
    """Records of a topic whose partials are worked out once for a whole epoch.

    What batches of an epoch have in common is done once then, in the thread that writes it. It
    belongs to the epoch it was given to, which alone changes it.
    """

    def __len__(self) -> int:
        """Number of records."""
        ...

    def add(self, more: Self) -> None:
        """Take in the records of the next batch, of any partition and of the same step."""
        ...

    def partials(self) -> Iterable[Partials]:
        """What they come to. Must not raise for records that the step took."""
        ...


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to produce inside the epoch. ``partition`` None: murmur2 of the key.

    A struct, because there may be one per event: a frozen dataclass takes twenty times as long.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be processed: it goes, as it was read, to the dead letters.

    ``index`` is the record's place in the batch, ``field`` the offending field or "".
    ``kind`` is VALIDATION, PROCESSING or UNKNOWN. ``attempts`` (how often the step was tried
    on it) and ``first_failed_ms`` (epoch ms; None: now) are the engine's to say.
    """

    index: int
    reason: str
    field: str = ""
    kind: str = "VALIDATION"
    attempts: int = 1
    first_failed_ms: int | None = None

    @property
    def said(self) -> str:
        """Field and reason."""
        return f"{self.field}: {self.reason}" if self.field else self.reason


@dataclass(frozen=True, slots=True)
class Late:
    """A record that came after its window's end plus grace: kept, explained, not counted."""

    index: int
    table: str
    lateness_ms: int


class TableView(Protocol):
    """Read your writes: every earlier batch of the partition is visible."""

    def get(self, key: bytes) -> Any | None:
        """State of the key, or None. Must not be changed in place."""
        ...

    def scan(self, prefix: bytes, limit: int) -> Iterable[tuple[bytes, Any]]:
        """Committed rows whose key starts with prefix, in key order, at most ``limit``."""
        ...

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterable[tuple[bytes, Any]]:
        """Committed rows with ``lo <= key < hi`` in key order, at most ``limit``."""
        ...


class View(Protocol):
    """What a step may read: the tables of its partition, its lanes, and up to when it was read."""

    @property
    def lanes(self) -> Lanes:
        """Watermarks of this source partition, one per lane."""
        ...

    @property
    def reading(self) -> Reading:
        """Up to when everything appended to this partition was worked on, as of the last look."""
        ...

    def table(self, name: str) -> TableView:
        """A table of the agent's group, by its catalogue name."""
        ...

    def partitions(self, topic: str) -> int:
        """Number of partitions of a topic of the catalogue."""
        ...


@dataclass(slots=True)
class Effects:
    """The answer of a step; empty by default.

    Every record of the batch must end in exactly one of ``applied``, ``rejects``,
    ``late`` or ``duplicates`` (the engine checks that they add up when
    ``applied`` is given by the topic's first step).
    """

    updates: dict[str, dict[bytes, Any]] = field(default_factory=dict)
    """table -> key -> partial to merge into the stored state"""
    puts: dict[str, dict[bytes, Any]] = field(default_factory=dict)
    """table -> key -> new state, of a step that had to read the old one and merged by itself"""
    deletes: dict[str, list[bytes]] = field(default_factory=dict)
    """table -> keys to remove (a tombstone in the changelog)"""
    drops: dict[str, list[KeyRange]] = field(default_factory=dict)
    """table -> ranges to remove, from their beginning and up to a bound: ask until none is left"""
    partials: list[Partials] = field(default_factory=list)
    gathered: Gathered | None = None
    """records of the batch of which the epoch makes partials"""
    outputs: list[Output] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    late: list[Late] = field(default_factory=list)
    lanes: Lanes | None = None
    """the partition's lanes after this batch, when they moved"""
    applied: int = 0
    duplicates: int = 0
    time_moved: bool = False
    """the agent's event-time tick is due: event time went on, or a timer was set"""


class Step(Protocol):
    """A pure, synchronous consumer of one topic's batches."""

    def __call__(self, batch: RecordBatch, view: View, now_ms: int) -> Effects:
        """Decide what the batch changes. No I/O, no clock, no logging."""
        ...


class Tick(Protocol):
    """Work of a partition that time brings, not a record, inside an epoch.

    A wall-clock tick comes once a second (retention, idle lanes). An event-time tick comes
    before an epoch is taken in which a step said ``time_moved``, and once more in the next,
    when ``range`` shows what that epoch wrote; a tick that left work says ``time_moved``.
    """

    def __call__(self, partition: int, view: View, now_ms: int) -> Effects:
        """Decide what the passing of time changes."""
        ...
