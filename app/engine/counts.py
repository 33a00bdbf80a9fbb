"""The ledger: how every record of a source partition ended, counted with its offset.

    in = applied + late + duplicate + rejected

The counts ride in the metadata of the committed offset, beside the lanes and what is in force
since when: they are as exact as the offset itself, whoever owns the partition and however it
was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from app.engine.declared import Since, decode_since, encode_since
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


def encode_metadata(lanes: Lanes, counts: Counts, since: Since = MappingProxyType({})) -> str:
    """Metadata of a committed offset: version, counts, lanes, declarations. Under 4 096 bytes.

    The declarations come last, and are not there where there are none: a version that does not
    know of them reads the others all the same (but that the last lane is idle).
    """
    numbers = f"{counts.applied},{counts.late},{counts.duplicate},{counts.rejected}"
    told = f"|{encode_since(since)}" if since else ""
    return f"{_VERSION}|{numbers}|{lanes.encode()}{told}"


def decode_metadata(text: str) -> tuple[Lanes, Counts]:
    """Inverse of :func:`encode_metadata`; what something else wrote counts as nothing."""
    version, _, rest = text.partition("|")
    numbers, separator, rest = rest.partition("|")
    if version != _VERSION or not separator:
        return Lanes(), Counts()
    try:
        applied, late, duplicate, rejected = (int(part) for part in numbers.split(","))
    except ValueError:
        return Lanes(), Counts()
    return Lanes.decode(rest.partition("|")[0]), Counts(applied, late, duplicate, rejected)


def declared_in(text: str) -> Since | None:
    """What the metadata says is in force since when; None: it does not say."""
    parts = text.split("|", 3)
    return decode_since(parts[3]) if parts[0] == _VERSION and len(parts) == 4 else None
