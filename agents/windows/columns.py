"""A batch of events as columns, each made once for all windows, and sums over places of them.

What a window asks of its events is worked out per group of a batch with the interpreter's own
loops (``itemgetter``, ``sum``, ``Counter``); per event and window there is only the grouping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter, mul
from typing import Any

from agents.log_events.decode import Events
from tables import sketch
from tables.histogram import FINE, FINE_END, Histogram, bucket
from tables.windows.stats import microseconds
from tables.windows.where import Admits

Places = Sequence[int]
Measured = tuple[int, int, int | None, int | None, Histogram, int]
"""n, sum, min, max, histogram, sum of squares."""

NOTHING: Measured = (0, 0, None, None, {}, 0)
_COUNTED = 12
"""Values from which a Counter is faster than a loop."""


class Columns:
    """Columns of events, each made when it is first asked for."""

    def __init__(self, events: Events) -> None:
        self._columns = events.columns
        self._values: dict[str, tuple[Sequence[int | None], Sequence[int], bool]] = {}
        self._errors: dict[int, Sequence[bool]] = {}

    def field(self, name: str) -> Sequence[Any]:
        """A field of every event."""
        return self._columns[name]

    def keys(self, name: str, admits: Admits | None) -> Sequence[str | None]:
        """The key field of every event; None also where the event is filtered out."""
        keys: Sequence[str | None] = self._columns[name]
        if admits is None:
            return keys
        admitted = self._columns[admits]
        return [key if admit else None for key, admit in zip(keys, admitted, strict=True)]

    def errors(self, places: Places, status_min: int) -> int:
        """How many of the events have at least that status."""
        column = self._errors.get(status_min)
        if column is None:
            column = self._errors[status_min] = [
                status is not None and status >= status_min for status in self.field("status")
            ]
        if len(places) == 1:
            return int(column[places[0]])
        return sum(itemgetter(*places)(column))

    def codes(self, places: Places) -> dict[int, int]:
        """How many of the events have which status."""
        counts = _counted(taken(self.field("status"), places))
        counts.pop(None, None)  # type: ignore[call-overload]
        return counts

    def distinct(self, places: Places, name: str) -> bytes:
        """Sketch of the different values of a field."""
        return sketch.sketch(set(taken(self.field(name), places)) - {None})

    def measured(self, places: Places, name: str) -> Measured:
        """Sums, extremes and histogram of a numeric field in thousandths of its unit."""
        column = self._values.get(name)
        if column is None:
            column = self._values[name] = self._scaled(name)
        values, cells, gaps = column
        if len(places) > 1 and gaps:
            places = [place for place in places if values[place] is not None]
        if len(places) < 2:
            value = values[places[0]] if places else None
            if value is None:
                return NOTHING
            return (1, value, value, value, {cells[places[0]]: 1}, value * value)
        found: Sequence[Any] = taken(values, places)
        hist = _counted(taken(cells, places))
        squares = sum(map(mul, found, found))
        return (len(found), sum(found), min(found), max(found), hist, squares)

    def _scaled(self, name: str) -> tuple[Sequence[int | None], Sequence[int], bool]:
        """Thousandths, their buckets, and whether there are events without the field."""
        given = self.field(name)
        gaps = None in given
        values: list[int | None]
        if name == "latency_ms":  # never negative: microseconds(), inlined
            if gaps:
                values = [None if v is None else int(v * 1000 + 0.5) for v in given]
            else:
                values = [int(v * 1000 + 0.5) for v in given]
        else:
            values = [None if v is None else microseconds(v) for v in given]
        cells = [0 if v is None else FINE[v] if 0 <= v < FINE_END else bucket(v) for v in values]
        return values, cells, gaps


def taken(column: Sequence[Any], places: Places) -> Sequence[Any]:
    """The column at these places (one at least)."""
    if len(places) == 1:
        return (column[places[0]],)
    found: tuple[Any, ...] = itemgetter(*places)(column)
    return found


def _counted(found: Sequence[int]) -> dict[int, int]:
    if len(found) >= _COUNTED:
        return dict(Counter(found))
    counts: dict[int, int] = {}
    for each in found:
        counts[each] = counts.get(each, 0) + 1
    return counts
