"""Where an answer comes from and how old it is: under the same names in every answer.

``watermark_ms`` is how far the lanes that fed what is told have come at least (epoch ms; null:
none of them is awake, or what is told goes by versions and not by event time).
``staleness_ms`` is the age of the oldest change that may not be in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypedDict

import msgspec

from app.engine.chunks import LaneMark
from app.engine.query import CommittedTable, NotOwnedError, NotReadyError, Queries
from tables.lanes import FOREVER, MARKS_MAX, LaneTimes
from web.queries.params import Consistency
from web.queries.rows import OpenTable
from web.queries.scatter import restoring

Role = Literal["active", "standby"]


class Whence(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of one partition, by the worker that holds it.

    ``role`` (owner or standby) and ``position`` (the next changelog offset that is not in the
    answer, null before the first) are told where a standby was allowed to answer.
    """

    partition: int
    worker: str
    watermark_ms: int | None
    staleness_ms: int
    partial: bool
    role: Role | msgspec.UnsetType = msgspec.UNSET
    position: int | msgspec.UnsetType | None = msgspec.UNSET


class Figures(TypedDict):
    """The fields of :class:`Whence`, for the answers that extend it."""

    partition: int
    worker: str
    watermark_ms: int | None
    staleness_ms: int
    partial: bool
    role: Role | msgspec.UnsetType
    position: int | msgspec.UnsetType | None


class Held:
    """Tables of a partition as its owner has them or, asked ``stale``, as whoever has them here.

    Making one and opening a table raise :class:`~app.engine.query.NotReadyError` and
    ``NotOwnedError``.
    """

    def __init__(
        self, queries: Queries, topic: str, partition: int, consistency: Consistency = "owner"
    ) -> None:
        self._queries = queries
        self._topic = topic
        self._partition = partition
        self._stale = consistency == "stale"
        self._role: Role | msgspec.UnsetType = msgspec.UNSET
        self._position: int | msgspec.UnsetType | None = msgspec.UNSET
        # Before the rows are read: they hold at least this much.
        if self._stale:
            replica = queries.replica(topic, partition)
            self._role, self._position = replica.role, replica.position
            self._staleness_ms = replica.staleness_ms
        else:
            self._staleness_ms = queries.staleness_ms(topic, partition)

    def table(self, name: str) -> CommittedTable:
        """One of the tables, to be read before the event loop turns."""
        if self._stale:
            return self._queries.replica(self._topic, self._partition).table(name)
        return self._queries.table(self._topic, self._partition, name)

    def opener(self, name: str) -> OpenTable:
        """Opens the table anew for each slice of a longer read."""
        return lambda: self.table(name)

    def figures(self, watermark_ms: int | None) -> Figures:
        """What the answer says of itself."""
        return {
            "partition": self._partition,
            "worker": self._queries.worker,
            "watermark_ms": watermark_ms,
            "staleness_ms": self._staleness_ms,
            "partial": False,
            "role": self._role,
            "position": self._position,
        }


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """An answer over many partitions: the least watermark of them and the greatest staleness.

    ``worker`` was asked; ``partitions`` are those in the answer. ``missing`` names workers
    without whose partitions (or some of them) it is; then it is ``partial``. ``standbys`` are
    the partitions told by a standby, where one was allowed to answer.
    """

    partitions: list[int]
    worker: str
    watermark_ms: int | None
    staleness_ms: int
    partial: bool
    missing: list[str]
    standbys: list[int] | msgspec.UnsetType = msgspec.UNSET


class SpreadFigures(TypedDict):
    """The fields of :class:`Spread`, for the answers that extend it."""

    partitions: list[int]
    worker: str
    watermark_ms: int | None
    staleness_ms: int
    partial: bool
    missing: list[str]
    standbys: list[int] | msgspec.UnsetType


class Spreading:
    """What an answer over many partitions is made of so far."""

    def __init__(self, worker: str, *, stale: bool = False) -> None:
        """``stale``: standbys may answer, and it is told which partitions they told."""
        self._worker = worker
        self._stale = stale
        self._partitions: set[int] = set()
        self._standbys: set[int] = set()
        self._missing: set[str] = set()
        self._watermark_ms: int | None = None
        self._staleness_ms = 0

    def hold(self, figures: Figures) -> None:
        """A partition of this worker is in it."""
        self._partitions.add(figures["partition"])
        if figures["role"] == "standby":
            self._standbys.add(figures["partition"])
        self._grow(figures["watermark_ms"], figures["staleness_ms"])

    def add(self, other: Spread) -> None:
        """What another worker told of its partitions is in it."""
        self._partitions.update(other.partitions)
        self._standbys.update(other.standbys or ())
        self._missing.update(other.missing)
        self._grow(other.watermark_ms, other.staleness_ms)

    def miss(self, workers: Iterable[str]) -> None:
        """It is without these workers."""
        self._missing.update(workers)

    def miss_here(self) -> None:
        """A partition of this worker moves or is being restored."""
        self._missing.add(self._worker)

    def miss_only(self, workers: Iterable[str]) -> None:
        """It is without these and no others: what was missing has been told since."""
        self._missing = set(workers)

    @property
    def partitions(self) -> frozenset[int]:
        """Those that are in it."""
        return frozenset(self._partitions)

    def figures(self) -> SpreadFigures:
        """What the answer says of itself."""
        return {
            "partitions": sorted(self._partitions),
            "worker": self._worker,
            "watermark_ms": self._watermark_ms,
            "staleness_ms": self._staleness_ms,
            "partial": bool(self._missing),
            "missing": sorted(self._missing),
            "standbys": sorted(self._standbys) if self._stale else msgspec.UNSET,
        }

    def _grow(self, watermark_ms: int | None, staleness_ms: int) -> None:
        known = (at for at in (self._watermark_ms, watermark_ms) if at is not None)
        self._watermark_ms = min(known, default=None)
        self._staleness_ms = max(self._staleness_ms, staleness_ms)


@contextmanager
def leaving(spread: Spreading) -> Iterator[None]:
    """A partition that moves or is being restored is missing from the answer, not a failure."""
    try:
        yield
    except (NotReadyError, NotOwnedError):
        spread.miss_here()


@contextmanager
def whole(spread: Spreading) -> Iterator[None]:
    """A partition that moves is missing from the answer; one that is being restored is a 503.

    For sums that must be right as soon as this worker is ready.
    """
    try:
        yield
    except NotReadyError as exc:
        raise restoring(exc) from exc
    except NotOwnedError:
        spread.miss_here()


Marks = Mapping[str, LaneMark]
"""Marks of lanes by lane key."""


def marks_before(table: CommittedTable) -> Marks:
    """Marks of all lanes, at most :data:`MARKS_MAX`; to be read before the rows.

    A long read goes on after other commits: with the marks of its end, a count of its beginning
    would look like that of a closed window.
    """
    return {key.decode(): mark for key, mark in table.range(b"", None, limit=MARKS_MAX)}


def times_of(table: CommittedTable, sources: int) -> LaneTimes:
    """Times of the lanes that feed a partition, from its marks and the number of sources."""
    return LaneTimes.of(marks_before(table), sources)


def watermark_by_times(times: LaneTimes, fed: Iterable[tuple[str, ...]]) -> int | None:
    """How far the lanes that ``fed`` rows have come at least; None: none of them is awake."""
    least = min((times.of_row(lanes) for lanes in fed), default=FOREVER)
    return least if 0 <= least < FOREVER else None
