"""The ledger: how every record of a source partition ended, counted with its offset.

    in = applied + late + duplicate + rejected

The counts ride in the metadata of the committed offset, beside the lanes: they are as exact
as the offset itself, whoever owns the partition and however it was lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.engine.effects import Effects
from app.engine.lanes import Lanes

_VERSION = "h1"


@dataclass(frozen=True, slots=True)
class Counts:
    """Records of a partition since its group was first committed, by how they ended."""

    applied: int = 0
    late: int = 0
    duplicate: int = 0
    rejected: int = 0

    @property
    def records(self) -> int:
        """All of them: what came in."""
        return self.applied + self.late + self.duplicate + self.rejected

    def after(self, effects: Effects) -> Counts:
        """Counts once a batch has had these effects."""
        return Counts(
            self.applied + effects.applied,
            self.late + len(effects.late),
            self.duplicate + effects.duplicates,
            self.rejected + len(effects.rejects),
        )


def encode_metadata(lanes: Lanes, counts: Counts) -> str:
    """Metadata of a committed offset: version, counts, lanes. Under 4 096 bytes."""
    numbers = f"{counts.applied},{counts.late},{counts.duplicate},{counts.rejected}"
    return f"{_VERSION}|{numbers}|{lanes.encode()}"


def decode_metadata(text: str) -> tuple[Lanes, Counts]:
    """Inverse of :func:`encode_metadata`; what something else wrote counts as nothing."""
    version, _, rest = text.partition("|")
    numbers, separator, lanes = rest.partition("|")
    if version != _VERSION or not separator:
        return Lanes(), Counts()
    try:
        applied, late, duplicate, rejected = (int(part) for part in numbers.split(","))
    except ValueError:
        return Lanes(), Counts()
    return Lanes.decode(lanes), Counts(applied, late, duplicate, rejected)
