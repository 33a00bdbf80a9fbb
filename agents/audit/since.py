"""Since which offset of a partition each window is counted, as its metadata tells. Pure.

A window that was declared anew, or otherwise, is compared from there on only: with no event
below, with no chunk made of such, and with no row of before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from agents.audit.facts import WINDOWS, Vector, Window

NEVER: Final = 1 << 63
"""Offset of a window that is not counted: its worker does not know of it, or does not tell."""


@dataclass(frozen=True, slots=True)
class Since:
    """Offsets by the window's place; none: every window from the beginning."""

    offsets: tuple[int, ...] = ()
    _latest: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_latest", max(self.offsets, default=0))

    def of(self, window: int) -> int:
        """Offset from which the window is counted."""
        return self.offsets[window] if self.offsets else 0

    def masked(self, offset: int, vector: Vector) -> Vector:
        """What a record at this offset is worth: nothing to the windows that begin above."""
        if offset >= self._latest:
            return vector
        numbers = list(vector)
        for window, since in enumerate(self.offsets):
            if offset < since:
                place = WINDOWS + 2 * window
                numbers[place : place + 2] = [0] * len(numbers[place : place + 2])
        return tuple(numbers)


EVER: Final = Since()


def since_of(windows: Sequence[Window], told: Mapping[str, int] | None) -> Since:
    """Since when each window is counted; ``told`` as in the metadata of a committed offset."""
    if told is None:
        return Since((NEVER,) * len(windows))
    return Since(tuple(told.get(_fingerprint(window.identity), NEVER) for window in windows))


def _fingerprint(identity: str) -> str:
    return blake2b(identity.encode(), digest_size=4).hexdigest()
