"""The local half of a window: a batch of events becomes one partial per key and window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from agents.log_events.decode import EventBatch
from agents.windows.repartition import PartialKey
from app.engine.batch import RecordBatch
from app.engine.chunks import lane_key
from app.engine.effects import Effects, Late, Repartition, View
from tables.histogram import FINE, FINE_END, Histogram, bucket
from tables.windows.spec import WindowSpec
from tables.windows.stats import WindowStats, merge_stats

_NO_MIN = 1 << 62


class _Group(msgspec.Struct, gc=False):
    """What a batch adds to one window of one key; ``last`` is the place of its last event."""

    last: int = 0
    count: int = 0
    errors: int = 0
    n: int = 0
    sum: int = 0
    min: int = _NO_MIN
    max: int = 0
    hist: Histogram = msgspec.field(default_factory=dict)
    sumsq: int = 0


@dataclass(frozen=True, slots=True)
class LocalWindows:
    """Event step of one window: groups a batch by (key, window), keeps nothing.

    An event is late when the stream time of its lane, itself included, has reached the
    end of its window plus grace. A late event adds one to ``late`` of its row and to
    nothing else. An event without the key field is in no window of it.
    """

    spec: WindowSpec
    repartition: Repartition

    def __call__(self, events: EventBatch, batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG002 - the contract's signature
        """Partials for the global half, and the late records."""
        groups, late = _grouped(self.spec, events)
        partials: dict[PartialKey, WindowStats] = {}
        name, timestamps = self.spec.name, batch.timestamps
        for (lane, start), keys in groups.items():
            lanes = (lane_key(batch.partition, lane),)
            for key, group in keys.items():
                partial = WindowStats(
                    group.count,
                    group.errors,
                    group.n,
                    group.sum,
                    group.min if group.n else None,
                    group.max if group.n else None,
                    group.hist,
                    0,
                    lanes,
                    max(0, timestamps[events.index[group.last]]),
                    group.sumsq,
                )
                _add(partials, (name, key, start), partial)
        effects = Effects()
        key_of = attrgetter(self.spec.key)
        size = self.spec.size_ms
        for place in late:
            event, index = events.events[place], events.index[place]
            start = event.timestamp - event.timestamp % size
            lateness_ms = events.stream_time_ms[place] - start - size
            effects.late.append(Late(index, name, lateness_ms))
            partial = WindowStats(late=1, updated_ms=max(0, timestamps[index]))
            _add(partials, (name, key_of(event), start), partial)
        if partials:
            effects.partials.append((self.repartition, partials))
        return effects


def _add(partials: dict[PartialKey, WindowStats], key: PartialKey, partial: WindowStats) -> None:
    held = partials.get(key)
    partials[key] = partial if held is None else merge_stats(held, partial)


def _grouped(
    spec: WindowSpec, events: EventBatch
) -> tuple[Mapping[tuple[str, int], Mapping[str, _Group]], list[int]]:
    """Groups by (lane, window start) and key, and the places of late events.

    One loop, and a group instead of a partial per key, because this runs per event: the
    window and lane of the event before are kept at hand, as most events share them.
    """
    size, close_after = spec.size_ms, spec.grace_ms
    status_min = 600 if spec.errors is None else spec.errors.status_min
    groups: dict[tuple[str, int], dict[str, _Group]] = {}
    current: dict[str, _Group] = {}
    late: list[int] = []
    start = end = closed = 0
    lane = None
    place = -1
    for key, value, event, stream_time, of_lane in zip(
        map(attrgetter(spec.key), events.events),
        map(attrgetter(spec.value or "latency_ms"), events.events),
        events.events,
        events.stream_time_ms,
        events.lanes,
        strict=True,
    ):
        place += 1
        if key is None:
            continue
        timestamp = event.timestamp
        if not start <= timestamp < end or of_lane != lane:
            start = timestamp - timestamp % size
            end = start + size
            closed = end + close_after
            lane = of_lane
            current = groups.setdefault((lane, start), {})
        if stream_time >= closed:
            late.append(place)
            continue
        group = current.get(key)
        if group is None:
            group = current[key] = _Group()
        group.last = place
        group.count += 1
        status = event.status
        if status is not None and status >= status_min:
            group.errors += 1
        if value is not None:
            us = int(value * 1000 + 0.5)  # microseconds(value), inlined
            group.n += 1
            group.sum += us
            group.sumsq += us * us
            if us < group.min:  # noqa: PLR1730 - per event, and min() costs four times as much
                group.min = us
            if us > group.max:  # noqa: PLR1730 - as above
                group.max = us
            cell = FINE[us] if us < FINE_END else bucket(us)
            hist = group.hist
            hist[cell] = hist.get(cell, 0) + 1
    return groups, late
