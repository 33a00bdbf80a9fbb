"""What a rebuild compares, and how it tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from tables.entities.snapshot import snapshot_hash

DIFFERENCES_MAX: Final = 20


@dataclass(slots=True)
class Latest:
    """The last record of each key: its digest (None: a tombstone) and its offset."""

    keys: dict[bytes, tuple[int | None, int]] = field(default_factory=dict)
    records: int = 0


class Difference(msgspec.Struct, frozen=True):
    """An entity that topic and table do not tell alike; a hash of None: it is not there."""

    entity: str
    partition: int
    topic: str | None
    table: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """One partition compared; ``topic`` and ``table`` are sums of digests."""

    records: int
    entities: int
    moved: int
    topic: int
    table: int
    different: int
    differences: Sequence[Difference]


class Report(msgspec.Struct, frozen=True):
    """How a rebuild went; times are epoch ms.

    ``rebuilt`` partitions of ``worker`` were restored anew; all ``partitions`` were compared.
    ``topic_hash`` and ``tables_hash`` are over the live ``entities`` of all partitions but
    those ``moved``, which changed meanwhile. ``differences`` are the first few of
    ``different``.
    """

    id: str
    state: Literal["running", "equal", "different", "failed"]
    worker: str
    started_at: int
    finished_at: int | None = None
    rebuilt: int = 0
    partitions: int = 0
    records: int = 0
    entities: int = 0
    moved: int = 0
    different: int = 0
    topic_hash: str | None = None
    tables_hash: str | None = None
    differences: list[Difference] = []
    reason: str = ""

    def of(self, looks: Sequence[Look]) -> Report:
        """The same report with its result."""
        different = sum(look.different for look in looks)
        return msgspec.structs.replace(
            self,
            state="different" if different else "equal",
            partitions=len(looks),
            records=sum(look.records for look in looks),
            entities=sum(look.entities for look in looks),
            moved=sum(look.moved for look in looks),
            different=different,
            topic_hash=snapshot_hash(look.topic for look in looks),
            tables_hash=snapshot_hash(look.table for look in looks),
            differences=[each for look in looks for each in look.differences][:DIFFERENCES_MAX],
        )

    def failed(self, reason: str) -> Report:
        """The same report of a rebuild that came to no result."""
        return msgspec.structs.replace(self, state="failed", reason=reason)


def compare(partition: int, latest: Latest, table: Mapping[bytes, int], before: int) -> Look:
    """Topic against table (digests of live entities by key).

    ``before`` is the topic's end as it was before the table was read: what has a record
    beyond it has moved.
    """
    moved = {key for key, (_, offset) in latest.keys.items() if offset >= before}
    theirs = {
        key: told for key, (told, _) in latest.keys.items() if told is not None and key not in moved
    }
    ours = {key: told for key, told in table.items() if key not in moved}
    wrong = sorted(key for key in theirs.keys() | ours if theirs.get(key) != ours.get(key))
    return Look(
        latest.records,
        len(ours),
        len(moved),
        sum(theirs.values()),
        sum(ours.values()),
        len(wrong),
        [
            Difference(
                key.decode("utf-8", "replace"),
                partition,
                _hex(theirs.get(key)),
                _hex(ours.get(key)),
            )
            for key in wrong[:DIFFERENCES_MAX]
        ],
    )


def _hex(told: int | None) -> str | None:
    return None if told is None else f"{told:032x}"
