"""The local half of windows: an epoch's events become one partial per key, pane and window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from agents.log_events.decode import Column, EventBatch, Events
from agents.windows.columns import NOTHING, Columns, Measured, Places
from agents.windows.repartition import PartialKey
from app.engine.chunks import lane_key
from app.engine.effects import Late, Repartition
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats
from tables.windows.where import Admits, admits_of
from tables.windows.window import GLOBAL_KEY

Groups = Mapping[tuple[str, int], Mapping[str, Places]]
"""Places of events by (lane, pane start), then key."""
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
        for admits, specs in self._alike:
            # Its pane ends after the event, so nothing can be late: the usual case.
            if batch.behind_ms <= specs[0].grace_ms:
                continue
            keys = Columns(batch.events).keys(specs[0].key, admits)
            for place in _grouped(specs[0], keys, batch.events)[1]:
                yield _late(specs[0], batch.index[place], place, batch.events)

    def partials(self, events: Events, partition: int) -> dict[PartialKey, WindowStats]:
        """Partials for the global half; rows of late events say how many there were."""
        columns = Columns(events)
        partials: dict[PartialKey, WindowStats] = {}
        for admits, specs in self._alike:
            groups, missed = _grouped(specs[0], columns.keys(specs[0].key, admits), events)
            _add_groups(partials, specs, groups, columns, events.ingest_ms, partition)
            for spec in specs if missed else ():
                _add_late(partials, spec, missed, columns, events.ingest_ms)
        return partials


def _late(spec: WindowSpec, index: int, place: int, events: Events) -> Late:
    timestamp = events.columns["timestamp"][place]
    end = timestamp - timestamp % spec.advance_ms + spec.advance_ms
    return Late(index, spec.name, events.stream_time_ms[place] - end)


def _add_groups(
    partials: dict[PartialKey, WindowStats],
    specs: tuple[WindowSpec, ...],
    groups: Groups,
    columns: Columns,
    ingested: Sequence[int],
    partition: int,
) -> None:
    """Partials of windows that group alike; a value that several measure is measured once."""
    for (lane, start), keys in groups.items():
        lanes = (lane_key(partition, lane),)
        for key, places in keys.items():
            updated_ms = ingested[places[-1]]
            last, measured = None, NOTHING
            for spec in specs:
                if spec.value != last:
                    last = spec.value
                    measured = NOTHING if last is None else columns.measured(places, last)
                row = (spec.name, spec.row_name(key) if spec.global_row else key, start)
                partial = _partial(spec, places, measured, lanes, updated_ms, columns)
                held = partials.get(row)
                partials[row] = partial if held is None else merge_stats(held, partial)
        for spec in specs:
            if spec.global_row and keys:
                places = sorted(chain.from_iterable(keys.values()))
                measured = NOTHING if spec.value is None else columns.measured(places, spec.value)
                updated_ms = ingested[places[-1]]
                partial = _partial(spec, places, measured, lanes, updated_ms, columns)
                _add(partials, (spec.name, GLOBAL_KEY, start), partial)


def _partial(
    spec: WindowSpec,
    places: Places,
    measured: Measured,
    lanes: tuple[str, ...],
    updated_ms: int,
    columns: Columns,
) -> WindowStats:
    errors = 0 if spec.errors is None else columns.errors(places, spec.errors.status_min)
    count = len(places)
    n, total, lowest, highest, hist, squares = measured
    if not spec.codes and spec.distinct is None:
        return WindowStats(
            count, errors, n, total, lowest, highest, hist, 0, lanes, updated_ms, squares
        )
    return WindowStats(
        count,
        errors,
        n,
        total,
        lowest,
        highest,
        hist,
        0,
        lanes,
        updated_ms,
        squares,
        columns.codes(places) if spec.codes else {},
        b"" if spec.distinct is None else columns.distinct(places, spec.distinct),
    )


def _add_late(
    partials: dict[PartialKey, WindowStats],
    spec: WindowSpec,
    late: Places,
    columns: Columns,
    ingested: Sequence[int],
) -> None:
    keys, timestamps = columns.field(spec.key), columns.field("timestamp")
    for place in late:
        timestamp = timestamps[place]
        start = timestamp - timestamp % spec.advance_ms
        partial = WindowStats(late=1, updated_ms=ingested[place])
        _add(partials, (spec.name, spec.row_name(keys[place]), start), partial)
        if spec.global_row:
            _add(partials, (spec.name, GLOBAL_KEY, start), partial)


def _add(partials: dict[PartialKey, WindowStats], key: PartialKey, partial: WindowStats) -> None:
    held = partials.get(key)
    partials[key] = partial if held is None else merge_stats(held, partial)


def _grouped(
    spec: WindowSpec, keys: Sequence[str | None], events: Events
) -> tuple[Groups, list[int]]:
    """Places by (lane, pane start) and key, and the places of late events.

    This runs per event: the pane and lane of the event before are kept at hand, as most
    events share them.
    """
    size, close_after = spec.advance_ms, spec.grace_ms
    groups: dict[tuple[str, int], dict[str, list[int]]] = {}
    current: dict[str, list[int]] = {}
    late: list[int] = []
    start = end = closed = 0
    lane = None
    place = -1
    for key, timestamp, stream_time, of_lane in zip(
        keys,
        events.columns["timestamp"],
        events.stream_time_ms,
        events.lanes,
        strict=True,
    ):
        place += 1
        if key is None:
            continue
        if not start <= timestamp < end or of_lane != lane:
            start = timestamp - timestamp % size
            end = start + size
            closed = end + close_after
            lane = of_lane
            held = groups.get((lane, start))
            if held is None:
                held = groups[lane, start] = defaultdict(list)
            current = held
        if stream_time >= closed:
            late.append(place)
        else:
            current[key].append(place)
    return groups, late
