"""What an offset's metadata and a record's headers say of counts and of coordinates. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TOLD_MAX: Final = 200
"""Declarations that the metadata of an offset has room for, at most."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a late record, a dead letter or an event made of another record comes from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Account:
    """What the engine says it did with a partition up to a committed offset."""

    applied: int
    late: int
    duplicate: int
    rejected: int

    @property
    def records(self) -> int:
        """All that came in."""
        return self.applied + self.late + self.duplicate + self.rejected


def read_account(metadata: str | None) -> Account | None:
    """Counts in the metadata of a committed offset: ``h1|applied,late,duplicate,rejected|...``."""
    parts = (metadata or "").split("|", 2)
    if len(parts) != 3 or parts[0] != "h1":
        return None
    numbers = parts[1].split(",")
    if len(numbers) != 4 or not all(n.isascii() and n.isdigit() for n in numbers):
        return None
    return Account(*map(int, numbers))


def read_since(metadata: str | None) -> Mapping[str, int] | None:
    """The last part of the metadata: fingerprint of what is counted -> the offset since when.

    ``fingerprint:offset`` (hexadecimal; no offset: 0) joined by blanks. None: it is not told.
    """
    parts = (metadata or "").split("|", 3)
    if len(parts) != 4 or parts[0] != "h1":
        return None
    since = {}
    for part in parts[3].split(" ")[:TOLD_MAX]:
        name, _, offset = part.partition(":")
        try:
            since[name] = int(offset or "0", 16)
        except ValueError:
            return None
    return since


def read_origin(headers: Mapping[str, bytes | None]) -> Origin | None:
    """Coordinates of a late record or dead letter; None: it was never a record of a topic."""
    topic = headers.get("original_topic")
    partition = headers.get("original_partition")
    offset = headers.get("original_offset")
    return _origin(topic, partition, offset)


def read_made(headers: Mapping[str, bytes | None]) -> Origin | None:
    """Coordinates that an event carries of the record it was made of; None: others wrote it."""
    place, _, offset = (headers.get("origin") or b"").rpartition(b":")
    topic, _, partition = place.rpartition(b"/")
    return _origin(topic, partition, offset)


def _origin(topic: bytes | None, partition: bytes | None, offset: bytes | None) -> Origin | None:
    if not topic or partition is None or offset is None:
        return None
    if not (partition.isdigit() and offset.isdigit() and len(partition) < 7 and len(offset) < 20):
        return None
    return Origin(topic.decode("utf-8", "replace"), int(partition), int(offset))
