"""What windows ask of an epoch's events, worked out for all groups of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.log_events.columns import EventColumns
from agents.log_events.groups import Flags, Groups, Ints, coded, ranked
from tables import sketch
from tables.histogram import Histogram, buckets
from tables.lanes import fed_by
from tables.windows.stats import microseconds
from tables.windows.where import Admits

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """A numeric field, group by group: see :class:`tables.windows.stats.WindowStats`."""

    n: Iterable[int]
    total: Iterable[int]
    lowest: Iterable[int | None]
    highest: Iterable[int | None]
    hist: Iterable[Histogram]
    squares: Iterable[int]


NOTHING = Measured(repeat(0), repeat(0), repeat(None), repeat(None), repeat({}), repeat(0))
"""No field is measured."""


class Columns:
    """What windows ask of an epoch's events beside :class:`EventColumns`, made once for all."""

    def __init__(self, events: EventColumns) -> None:
        self.events = events
        self._panes: dict[int, tuple[Ints, Ints]] = {}
        self._values: dict[str, tuple[Ints, Ints, Flags | None]] = {}
        self._statuses: tuple[Ints, Flags | None] | None = None

    def panes(self, advance_ms: int) -> tuple[Ints, Ints]:
        """Start of the pane of each event, and its rank among them."""
        found = self._panes.get(advance_ms)
        if found is None:
            starts = self.events.timestamps - self.events.timestamps % advance_ms
            found = self._panes[advance_ms] = starts, ranked(starts)
        return found

    def keys(self, name: str, admits: Admits | None) -> tuple[list[str], Ints]:
        """The key field, coded; none also where the event is filtered out."""
        if admits is None:
            return self.events.coded(name)
        column, admitted = self.events.field(name), self.events.field(admits)
        return coded([key if admit else None for key, admit in zip(column, admitted, strict=True)])

    def lanes(self, groups: Groups) -> list[tuple[str, ...]]:
        """Keys of the lanes that feed each group, as a row has them."""
        names, codes = self.events.lane_keys
        if len(names) == 1:
            return [(names[0],)] * len(groups)
        found = groups.sets(codes)
        made = {each: fed_by(names[code] for code in each) for each in {*found}}
        return [made[each] for each in found]

    def errors(self, groups: Groups, status_min: int) -> list[int]:
        """How many of the events have at least that status."""
        return groups.sums((self._status()[0] >= status_min).astype(np.int64))

    def codes(self, groups: Groups) -> list[dict[int, int]]:
        """How many of the events have which status."""
        statuses, given = self._status()
        if given is None:
            return groups.tallies(statuses)
        having, which = groups.only(given)
        return _spread(len(groups), which, having.tallies(statuses), {})

    def distinct(self, groups: Groups, name: str) -> list[bytes]:
        """Sketches of the different values of a field."""
        column = self.events.field(name)
        return [
            sketch.sketch({column[place] for place in places} - {None}) for places in groups.lists()
        ]

    def measured(self, groups: Groups, name: str) -> Measured:
        """Sums, extremes and histograms of a numeric field in thousandths of its unit."""
        column = self._values.get(name)
        if column is None:
            column = self._values[name] = self._scaled(name)
        values, cells, given = column
        having, which = (groups, None) if given is None else groups.only(given)
        found = Measured(
            having.counts.tolist(),
            having.sums(values),
            having.lowest(values),
            having.highest(values),
            having.tallies(cells),
            having.squares(values),
        )
        if which is None:
            return found
        size = len(groups)
        return Measured(
            _spread(size, which, found.n, 0),
            _spread(size, which, found.total, 0),
            _spread(size, which, found.lowest, None),
            _spread(size, which, found.highest, None),
            _spread(size, which, found.hist, {}),
            _spread(size, which, found.squares, 0),
        )

    def _status(self) -> tuple[Ints, Flags | None]:
        if self._statuses is None:
            statuses, given = _numbers(self.events.field("status"))
            self._statuses = statuses.astype(np.int64), given
        return self._statuses

    def _scaled(self, name: str) -> tuple[Ints, Ints, Flags | None]:
        """Thousandths, their buckets, and which events have the field, unless all have."""
        numbers, given = _numbers(self.events.field(name))
        values = microseconds(numbers)
        return values, buckets(values), given


def _numbers(column: Sequence[Any]) -> tuple[NDArray[np.float64], Flags | None]:
    """Numbers, 0 for None; and which events have one, unless all have."""
    numbers = np.fromiter(column, np.float64, len(column))  # which makes NaN of None
    given = ~np.isnan(numbers)
    return (numbers, None) if given.all() else (np.where(given, numbers, 0.0), given)


def _spread(size: int, which: Ints, found: Iterable[T], default: T) -> list[T]:
    """What was found of the groups that have any, and the default of the others."""
    spread = [default] * size
    for place, each in zip(which.tolist(), found, strict=True):
        spread[place] = each
    return spread
