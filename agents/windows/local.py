"""The local half of windows: an epoch's events become one partial per key, pane and window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from agents.log_events.columns import EventColumns
from agents.log_events.decode import Column, EventBatch, Events
from agents.log_events.groups import Groups, grouped
from agents.windows.columns import NOTHING, Columns, Measured
from agents.windows.repartition import PartialKey
from app.engine.effects import Late, Partials, Repartition
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats
from tables.windows.where import Admits, admits_of
from tables.windows.window import GLOBAL_KEY

_Shape = tuple[str, int, int, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class LocalWindows:
    """Event step of all windows: groups events by (key, pane), keeps nothing.

    An event is late when the stream time of its lane, itself included, has reached the
    end of its pane plus grace. A late event adds one to ``late`` of its row and to
    nothing else. An event without the key field, or that the filter leaves out, is in no
    window of it. Windows that group alike are grouped once.
    """

    specs: tuple[WindowSpec, ...]
    repartition: Repartition
    _alike: tuple[tuple[Admits | None, tuple[WindowSpec, ...]], ...] = field(
        init=False, compare=False
    )

    def __post_init__(self) -> None:
        alike: dict[_Shape, list[WindowSpec]] = defaultdict(list)
        for spec in self.specs:
            alike[spec.key, spec.advance_ms, spec.grace_ms, spec.where].append(spec)
        made = tuple((admits_of(specs[0].where), tuple(specs)) for specs in alike.values())
        object.__setattr__(self, "_alike", made)

    @property
    def reads(self) -> Iterator[Column]:
        """Keys, filters, and what is measured and counted."""
        for admits, _ in self._alike:
            if admits is not None:
                yield admits
        for spec in self.specs:
            yield spec.key
            yield from (name for name in (spec.value, spec.distinct) if name is not None)
            if spec.codes or spec.errors is not None:
                yield "status"

    def late(self, batch: EventBatch) -> Iterator[Late]:
        """For each of the windows that group alike, the first of them."""
        columns = None
        for admits, specs in self._alike:
            # Its pane ends after the event, so nothing can be late: the usual case.
            if batch.behind_ms <= specs[0].grace_ms:
                continue
            columns = columns or Columns(EventColumns(batch.events))
            for place in _Placed(columns, specs[0], admits).missed:
                yield _late(specs[0], batch.index[place], place, batch.events)

    def partials(self, events: EventColumns) -> Partials:
        """Partials for the global half; rows of late events say how many there were."""
        columns = Columns(events)
        partials: dict[PartialKey, WindowStats] = {}
        counted: dict[str, dict[int, tuple[int, int]]] = {}
        for admits, specs in self._alike:
            placed = _Placed(columns, specs[0], admits)
            _add_rows(partials, specs, columns, placed, placed.by_key())
            whole = tuple(spec for spec in specs if spec.global_row)
            if whole:
                _add_rows(partials, whole, columns, placed, placed.of_all_keys(), GLOBAL_KEY)
            for spec in specs if placed.missed else ():
                _add_late(partials, spec, placed.missed, events)
            counted |= dict.fromkeys((spec.name for spec in specs), placed.counted(events))
        return Partials(self.repartition, partials, counted)


def _late(spec: WindowSpec, index: int, place: int, events: Events) -> Late:
    timestamp = events.columns["timestamp"][place]
    end = timestamp - timestamp % spec.advance_ms + spec.advance_ms
    return Late(index, spec.name, events.stream_time_ms[place] - end)


class _Placed:
    """Events of the windows that group alike: those in time, and the places of the late ones."""

    def __init__(self, columns: Columns, spec: WindowSpec, admits: Admits | None) -> None:
        self.keys, self._codes = columns.keys(spec.key, admits)
        self._starts, self._ranks = columns.panes(spec.advance_ms)
        closed = columns.events.stream_time_ms >= self._starts + (spec.advance_ms + spec.grace_ms)
        known = self._codes >= 0
        self._missed = np.flatnonzero(known & closed)
        self.missed: list[int] = self._missed.tolist()
        self._places = np.flatnonzero(known & ~closed)

    def counted(self, events: EventColumns) -> dict[int, tuple[int, int]]:
        """How many events there are in time, and how many late, of each source partition."""
        partitions, sources = events.sources
        in_time, late = (
            np.bincount(sources[places], minlength=len(partitions)).tolist()
            for places in (self._places, self._missed)
        )
        found = zip(partitions, zip(in_time, late, strict=True), strict=True)
        return {source: counts for source, counts in found if any(counts)}

    def by_key(self) -> Groups:
        """The events in time by pane and key."""
        return grouped(self._places, self._ranks, self._codes)

    def of_all_keys(self) -> Groups:
        """The same by pane alone."""
        return grouped(self._places, self._ranks)

    def key_of(self, groups: Groups) -> list[str]:
        """Key of each group."""
        return [self.keys[code] for code in self._codes[groups.first].tolist()]

    def start_of(self, groups: Groups) -> list[int]:
        """Start of the pane of each group."""
        starts: list[int] = self._starts[groups.first].tolist()
        return starts


def _add_rows(
    partials: dict[PartialKey, WindowStats],
    specs: tuple[WindowSpec, ...],
    columns: Columns,
    placed: _Placed,
    groups: Groups,
    key: str | None = None,
) -> None:
    """Partials of each group, under the ``key`` if there is one, else under that of the group.

    A value that several windows measure is measured once.
    """
    starts = placed.start_of(groups)
    lanes = columns.lanes(groups)
    updated_ms = groups.highest(columns.events.ingest_ms)
    keys = [key] * len(groups) if key is not None else placed.key_of(groups)
    last, measured = None, NOTHING
    for spec in specs:
        if spec.value != last:
            last = spec.value
            measured = NOTHING if last is None else columns.measured(groups, last)
        named = map(spec.row_name, keys) if spec.global_row and key is None else keys
        stats = _stats(spec, columns, groups, measured, lanes, updated_ms)
        for name, start, partial in zip(named, starts, stats, strict=True):
            _add(partials, (spec.name, name, start), partial)


def _stats(
    spec: WindowSpec,
    columns: Columns,
    groups: Groups,
    measured: Measured,
    lanes: Iterable[tuple[str, ...]],
    updated_ms: Iterable[int],
) -> Iterator[WindowStats]:
    return map(
        WindowStats,
        groups.counts.tolist(),
        repeat(0) if spec.errors is None else columns.errors(groups, spec.errors.status_min),
        measured.n,
        measured.total,
        measured.lowest,
        measured.highest,
        measured.hist,
        repeat(0),
        lanes,
        updated_ms,
        measured.squares,
        columns.codes(groups) if spec.codes else repeat({}),
        repeat(b"") if spec.distinct is None else columns.distinct(groups, spec.distinct),
    )


def _add_late(
    partials: dict[PartialKey, WindowStats],
    spec: WindowSpec,
    late: list[int],
    events: EventColumns,
) -> None:
    keys, timestamps, ingest_ms = events.field(spec.key), events.timestamps, events.ingest_ms
    for place in late:
        timestamp = int(timestamps[place])
        start = timestamp - timestamp % spec.advance_ms
        partial = WindowStats(late=1, updated_ms=int(ingest_ms[place]))
        _add(partials, (spec.name, spec.row_name(keys[place]), start), partial)
        if spec.global_row:
            _add(partials, (spec.name, GLOBAL_KEY, start), partial)


def _add(partials: dict[PartialKey, WindowStats], key: PartialKey, partial: WindowStats) -> None:
    held = partials.get(key)
    partials[key] = partial if held is None else merge_stats(held, partial)
