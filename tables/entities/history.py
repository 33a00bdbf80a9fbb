"""The newest events of each entity, in order of arrival: table ``entity_history``.

Row key: the entity's key, a zero byte, eight bytes big-endian sequence. Keys hold no zero
byte, so the rows of one entity lie together. A sequence begins at the offset of the
entity's first event and goes up by one, so it never passes the offset of the event it
numbers, and an entity that was purged and comes back begins beyond its old rows.

What is older than the rows here lies in ``entity-events`` below the offset of the oldest
row, in the partition of the key: there an archive goes on where an answer ends
(:attr:`Change.offset`).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

from app.engine.effects import TableSpec
from tables.entities.event import Op
from tables.packed import Packed

HISTORY_TABLE: Final = "entity_history"
SEQUENCE_MAX: Final = (1 << 64) - 1

_SEQUENCE: Final = Struct(">Q")


class Change(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """One event about an entity.

    ``offset`` is its place in the key's partition of ``entity-events``; ``ingest_ts`` when it
    came there, epoch ms. ``applied`` False: a newer version was known by then, so it
    changed nothing. ``attributes`` is a JSON object.
    """

    offset: int
    op: Op
    version: int
    timestamp: int
    event_id: str
    ingest_ts: int
    applied: bool
    attributes: bytes


class Changes(Packed[Change]):
    """A row is written once; of two for one key the later in the log stays."""

    kind = Change

    def merge(self, left: Change, right: Change) -> Change:
        """The one with the higher offset."""
        return max(left, right)


def history_table() -> TableSpec:
    """The table of changes."""
    return TableSpec(HISTORY_TABLE, "entity-change-1", Changes())


def history_key(key: bytes, sequence: int) -> bytes:
    """Row key of an entity's change number ``sequence``, 0 to 2^64-1."""
    return key + b"\0" + _SEQUENCE.pack(sequence)


def history_bounds(key: bytes, before: int | None) -> tuple[bytes, bytes]:
    """Range ``[lo, hi)`` of the row keys of an entity, of sequences below ``before`` if given."""
    return key + b"\0", key + b"\1" if before is None else history_key(key, before)


def parse_history_key(raw: bytes) -> tuple[bytes, int]:
    """Entity key and sequence; raises :class:`ValueError` on anything else."""
    if len(raw) < 10 or raw[-9] != 0:
        raise ValueError(f"not the row key of a change: {raw[:64]!r}")
    return raw[:-9], _SEQUENCE.unpack_from(raw, len(raw) - 8)[0]
