"""What the web may ask of the engine: the committed view and who owns what.

Queries read committed state only, so an answer never shows what a transaction may
still undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from app.engine.counts import Counts


class NotReadyError(Exception):
    """The partition is being restored on this worker: answer 503 with Retry-After."""


class NotOwnedError(Exception):
    """This worker does not own the partition: ask its owner."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Where a partition lives. ``url`` is None while the group is rebalancing."""

    partition: int
    url: str | None
    local: bool


class CommittedTable(Protocol):
    """Committed rows of one table in one partition."""

    def get(self, key: bytes) -> Any | None:
        """State of the key, or None."""
        ...

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """Rows with ``lo <= key < hi`` in key order (``reverse``: from the end), at most limit."""
        ...

    def stored(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same rows as :meth:`range`, encoded: for who needs but a part of each."""
        ...


class Replica(Protocol):
    """What this worker holds of a partition, as its owner or as a standby of it."""

    @property
    def role(self) -> Literal["active", "standby"]:
        """Whether this worker owns the partition."""
        ...

    @property
    def position(self) -> int | None:
        """Next changelog offset that the rows do not hold; None before the first."""
        ...

    @property
    def staleness_ms(self) -> int:
        """What was committed longer ago than this is in the rows."""
        ...

    def table(self, name: str) -> CommittedTable:
        """Committed rows of one of the tables."""
        ...


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One partition's account. ``committed`` is what a crash cannot take back.

    ``position`` is the next offset to process, ``lag`` what lies beyond it (None: unknown).
    """

    topic: str
    partition: int
    position: int
    committed_position: int
    counts: Counts
    committed: Counts
    lag: int | None


@dataclass(frozen=True, slots=True)
class ConsumerRow:
    """One partition of an agent's topic, as its worker reads it.

    ``state``: restoring, running or halted. ``position`` is the next offset to process,
    ``committed_position`` the one a crash goes back to, ``end`` where committed records end,
    ``lag`` what lies between (all None while not known). ``batch_size``: records a step is
    given at most. ``paused``: nothing is fetched, because enough is held or it is halted.
    ``watermark_ms``: highest event time of live traffic, None before the first.
    """

    topic: str
    partition: int
    state: str
    position: int | None
    committed_position: int | None
    end: int | None
    lag: int | None
    batch_size: int
    paused: bool
    watermark_ms: int | None


CommitListener = Callable[[int, Mapping[bytes, Any]], None]
"""Called on the event loop after a commit with (partition, key -> new state; None: deleted)."""


class Queries(Protocol):
    """Interactive queries over the tables of an agent's topic (its table group)."""

    @property
    def worker(self) -> str:
        """Name of this worker, for answers."""
        ...

    def owner(self, topic: str, key: bytes) -> Owner:
        """Owner of the key's partition (murmur2, as Kafka's default partitioner)."""
        ...

    def owners(self, topic: str) -> list[Owner]:
        """Owner of each partition of the topic, by partition."""
        ...

    def table(self, topic: str, partition: int, name: str) -> CommittedTable:
        """Committed rows; raises :class:`NotReadyError` or :class:`NotOwnedError`."""
        ...

    def staleness_ms(self, topic: str, partition: int) -> int:
        """Age of the committed view: 0 when everything fetched so far is committed."""
        ...

    def replica(self, topic: str, partition: int) -> Replica:
        """What is here of a partition, owned or standby; valid until the event loop turns.

        Raises :class:`NotReadyError` or :class:`NotOwnedError`.
        """
        ...

    def standbys(self, topic: str, partition: int) -> list[str]:
        """URLs of the other workers that keep a standby of the partition."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Whether every assigned partition is restored, and if not, what is awaited."""
        ...

    def ledger(self) -> list[LedgerRow]:
        """Account of every partition this worker runs."""
        ...

    def consumers(self) -> list[ConsumerRow]:
        """Every partition this worker owns, whatever its state."""
        ...

    def live(self) -> tuple[bool, str]:
        """Whether every partition moves that should, and if not, which and why."""
        ...

    def on_commit(self, topic: str, table: str, listener: CommitListener) -> None:
        """Be told of every committed change of a table in the partitions of this worker."""
        ...
