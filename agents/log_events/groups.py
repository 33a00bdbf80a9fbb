"""Events put together by what they share, and what each group comes to, without a loop over them.

An epoch has thousands of events and nearly as many groups, of a few events each: what a loop
over groups would ask of the interpreter for every one is asked of NumPy once for all. Numbers
are exact integers throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

NONE: Final = -1
"""Code of a value that is not there."""
_SHORT: Final = 1 << 16
"""Sorting codes below it takes a fourth of the time."""
_INT_MAX: Final = 2**63 - 1
_BITS: Final = 63


@dataclass(frozen=True, slots=True)
class Groups:
    """Places of events, group after group, each in order of arrival.

    ``starts``: where in ``places`` each group begins; none is empty. ``counts``: its events.
    """

    places: Ints
    starts: Ints
    counts: Ints

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def first(self) -> Ints:
        """Place of the first event of each group."""
        return self.places[self.starts]

    @property
    def last(self) -> Ints:
        """Place of the last."""
        last: Ints = self.places[self.starts + self.counts - 1]
        return last

    @property
    def owner(self) -> Ints:
        """Number of the group of each of ``places``."""
        owner: Ints = np.repeat(np.arange(len(self)), self.counts)
        return owner

    def sums(self, column: Ints) -> list[int]:
        """Sum of a column over each group, whatever its size."""
        return self._sums(column, 1)

    def squares(self, column: Ints) -> list[int]:
        """Sum of the squares of a column over each group, whatever its size."""
        return self._sums(column, 2)

    def lowest(self, column: Ints) -> list[int]:
        """Least of a column in each group."""
        return self._reduced(np.minimum, column[self.places])

    def highest(self, column: Ints) -> list[int]:
        """Greatest of a column in each group."""
        return self._reduced(np.maximum, column[self.places])

    def sets(self, codes: Ints) -> list[frozenset[int]]:
        """Which codes (a column, none below 0) are in each group."""
        if not len(self):
            return []
        if int(codes.max()) >= _BITS:
            code_of = codes.tolist().__getitem__
            return [frozenset(map(code_of, places)) for places in self.lists()]
        masks = self._reduced(np.bitwise_or, np.left_shift(1, codes)[self.places])
        made = {
            mask: frozenset(bit for bit in range(_BITS) if mask >> bit & 1) for mask in {*masks}
        }
        return [made[mask] for mask in masks]

    def _sums(self, column: Ints, power: int) -> list[int]:
        if not len(self):
            return []
        taken: NDArray[Any] = column[self.places]
        peak = max(abs(int(taken.max())), abs(int(taken.min())))
        if peak**power * len(taken) > _INT_MAX:
            taken = taken.astype(object)  # integers of the interpreter, which have no end
        return self._reduced(np.add, taken**power)

    def _reduced(self, what: np.ufunc, taken: NDArray[Any]) -> list[int]:
        if not len(self):
            return []
        found: list[int] = what.reduceat(taken, self.starts).tolist()
        return found

    def tallies(self, column: Ints) -> list[dict[int, int]]:
        """How often each number is in each group, for a column of small numbers."""
        if not len(self):
            return []
        taken = column[self.places]
        least = int(taken.min())
        width = int(taken.max()) - least + 1
        pairs = self.owner * width + (taken - least)
        pairs.sort()
        firsts = _firsts(pairs)
        found = pairs[firsts]
        often = np.diff(firsts, append=len(pairs)).tolist()
        numbers = (found % width + least).tolist()
        ends = np.searchsorted(found, np.arange(1, len(self) + 1) * width).tolist()
        made, start = [], 0
        for end in ends:
            made.append(dict(zip(numbers[start:end], often[start:end], strict=True)))
            start = end
        return made

    def lists(self) -> list[list[int]]:
        """Places of each group."""
        places, ends = self.places.tolist(), (self.starts + self.counts).tolist()
        return [places[start:end] for start, end in zip(self.starts.tolist(), ends, strict=True)]

    def only(self, wanted: Flags) -> tuple[Groups, Ints]:
        """Those of the events that are wanted (a column), and which groups have any."""
        kept = wanted[self.places]
        owner = self.owner[kept]
        starts = _firsts(owner)
        return _cut(self.places[kept], starts), owner[starts]


def grouped(places: Ints, *codes: Ints) -> Groups:
    """Groups of the events at ``places`` that agree in all ``codes`` (columns, none below 0)."""
    if not len(places):
        return _cut(places, places)
    ids = reduce(_paired, (code[places] for code in codes))
    if int(ids.max()) < _SHORT:
        ids = ids.astype(np.uint16)
    order = np.argsort(ids, kind="stable")
    return _cut(places[order], _firsts(ids[order]))


def runs(places: Ints, times: Ints, gap: int, *codes: Ints) -> Groups:
    """The events at ``places`` that agree in all ``codes``, apart where none came for ``gap``.

    Within a group they are in order of ``times`` (a column).
    """
    if not len(places):
        return _cut(places, places)
    ids, at = reduce(_paired, (code[places] for code in codes)), times[places]
    order = np.argsort(_paired(ids, at - at.min()))
    ids, at = ids[order], at[order]
    begins = np.ones(len(places), np.bool_)
    begins[1:] = (ids[1:] != ids[:-1]) | (at[1:] - at[:-1] > gap)
    return _cut(places[order], np.flatnonzero(begins))


def coded(column: Sequence[str | None]) -> tuple[list[str], Ints]:
    """The different values of a column, and of each event the place of its own among them.

    :data:`NONE` where there is none.
    """
    seen = dict.fromkeys(column)
    names = [name for name in seen if name is not None]
    if len(names) == len(seen) == 1:  # as lanes mostly are
        return names, np.zeros(len(column), np.int64)
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    numbers[None] = NONE
    return names, np.fromiter(map(numbers.__getitem__, column), np.int64, len(column))


def ranked(column: Ints) -> Ints:
    """Of each event the rank of its number among the different ones."""
    if not len(column) or column.min() == column.max():
        return np.zeros(len(column), np.int64)
    ranks: Ints = np.unique(column, return_inverse=True)[1]
    return ranks


def ints(column: Sequence[int]) -> Ints:
    """A column of integers of up to 63 bits."""
    return np.fromiter(column, np.int64, len(column))


def _cut(places: Ints, starts: Ints) -> Groups:
    return Groups(places, starts, np.diff(starts, append=len(places)))


def _paired(left: Ints, right: Ints) -> Ints:
    """One code for two, none below 0: equal where both are, ordered by the left, then the right."""
    width = int(right.max()) + 1
    if width == 1:
        return left
    if (int(left.max()) + 1) * width > _INT_MAX:
        return _paired(ranked(left), ranked(right))
    return left * width + right


def _firsts(column: NDArray[Any]) -> Ints:
    """Where a run of equal numbers begins."""
    if not len(column):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1])))
