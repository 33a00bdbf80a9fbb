"""One decoding of a batch for all steps of the topic, with each record's stream time.

Events are decoded some hundred at a time and of each only what the steps read is kept. A late
epoch has turns of ten thousand events, a kilobyte each: read all at once, every look at one of
them would miss the processor's cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, sub
from typing import Any, Final

from app.engine.batch import Headers, RecordBatch
from app.engine.effects import Reject
from app.engine.lanes import LANE_HEADER, LIVE, Lanes, lane_id
from app.models import rules
from app.models.event import DECODE_ERRORS, LogEvent, decode_event

REASON_MAX: Final = 300
"""Characters of a reason: the parser quotes what it was given."""
BLOCK: Final = 256
"""Events decoded at a time: some 250 KiB of objects."""

Column = str | Callable[[LogEvent], object]
"""What a step reads of every event: a field by its name, or what a function makes of the event."""

_FUTURE = f"must not be more than {rules.FUTURE_MS_MAX // 60_000} minutes in the future"
_FIELD = re.compile(r"(?:at `\$\.|missing required field `)([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Events:
    """Events as columns of one length, those of a partition in offset order.

    ``columns`` are those the reader was made for, and ``timestamp``. ``stream_time_ms`` is the
    highest event time its lane had accepted once this event was, so it never falls within a
    lane. ``lanes`` are lane ids, ``ingest_ms`` when the broker took each (0: it did not say).
    ``sources`` are source partitions, each with how many of the events in turn are its own.
    """

    columns: Mapping[Column, list[Any]]
    stream_time_ms: list[int]
    lanes: list[str]
    ingest_ms: list[int]
    sources: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.lanes)

    def extend(self, more: Events) -> None:
        """Append those of the next batch."""
        for name, column in self.columns.items():
            column.extend(more.columns[name])
        self.stream_time_ms.extend(more.stream_time_ms)
        self.lanes.extend(more.lanes)
        self.ingest_ms.extend(more.ingest_ms)
        self.sources.extend(more.sources)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What a batch of records holds: its events, without the rejects.

    ``index`` is the event's place in the record batch. ``behind_ms``: how far the one that is
    furthest behind its stream time is. ``moved`` is what :meth:`Lanes.advanced` takes: lane ->
    (highest event time, ingest time of its last event), for the lanes that had one.
    """

    events: Events
    index: Sequence[int]
    behind_ms: int
    moved: Mapping[str, tuple[int, int]]
    rejects: Sequence[Reject]


class EventReader:
    """Decodes batches. Each record becomes an event or a reject with field and reason.

    A record that is not an event, or is more than 5 minutes ahead of its ingest, moves no
    watermark and costs only itself. Never raises, whatever the records hold.
    """

    def __init__(self, columns: Iterable[Column]) -> None:
        self._getters: dict[Column, Callable[[LogEvent], object]] = {
            column: attrgetter(column) if isinstance(column, str) else column
            for column in {"timestamp": None, **dict.fromkeys(columns)}
        }

    def __call__(self, batch: RecordBatch, lanes: Lanes) -> EventBatch:
        """The events of a batch, given the lanes before it."""
        lane_of = _lane_column(batch.headers)
        columns: dict[Column, list[Any]] = {column: [] for column in self._getters}
        filled = [(columns[column].extend, getter) for column, getter in self._getters.items()]
        reading = _Reading(lanes)
        for start in range(0, len(batch), BLOCK):
            stop = start + BLOCK
            block = reading.block(
                start, batch.values[start:stop], batch.timestamps[start:stop], lane_of[start:stop]
            )
            for extend, getter in filled:
                extend(map(getter, block))
        rejects, ingest_ms = reading.rejects, [max(0, at) for at in batch.timestamps]
        places: Sequence[int] = range(len(batch))
        if rejects:
            refused = {reject.index for reject in rejects}
            places = [i for i in places if i not in refused]
            lane_of = [lane_of[i] for i in places]
            ingest_ms = [ingest_ms[i] for i in places]
        sources = [(batch.partition, len(lane_of))]
        events = Events(columns, reading.stream_time_ms, lane_of, ingest_ms, sources)
        behind_ms = max(map(sub, reading.stream_time_ms, columns["timestamp"]), default=0)
        return EventBatch(events, places, behind_ms, reading.moved(), rejects)


class _Reading:
    """Where the lanes have come to in the middle of a batch, and what was refused so far."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._moved: dict[str, tuple[int, int]] = {}
        self._lane = LIVE
        self._watermark = lanes.watermark(LIVE)
        self._seen: int | None = None
        self.stream_time_ms: list[int] = []
        self.rejects: list[Reject] = []

    def moved(self) -> dict[str, tuple[int, int]]:
        """The lanes that had an event; see :class:`EventBatch`."""
        if self._seen is not None:
            self._moved[self._lane] = (self._watermark, self._seen)
        return self._moved

    def block(
        self,
        index: int,
        values: Sequence[bytes | None],
        timestamps: Sequence[int],
        lanes: Sequence[str],
    ) -> list[LogEvent]:
        """The events of the records from ``index`` on."""
        events: list[LogEvent] = []
        lane, watermark, seen = self._lane, self._watermark, self._seen
        stream_time_ms, rejects, moved = self.stream_time_ms, self.rejects, self._moved
        index -= 1
        for raw, ingest, of_lane in zip(values, timestamps, lanes, strict=True):
            index += 1
            if of_lane != lane:
                if seen is not None:
                    moved[lane] = (watermark, seen)
                lane = of_lane
                watermark, seen = moved.get(lane, (self._lanes.watermark(lane), None))
            if raw is None or len(raw) > rules.EVENT_BYTES_MAX:
                rejects.append(Reject(index, _unreadable(raw)))
                continue
            try:
                event = decode_event(raw)
            except DECODE_ERRORS as error:
                rejects.append(_reject(index, error))
                continue
            timestamp = event.timestamp
            if timestamp - ingest > rules.FUTURE_MS_MAX:
                rejects.append(Reject(index, _FUTURE, "timestamp"))
                continue
            if timestamp > watermark:  # noqa: PLR1730 - per event, and max() costs four times as much
                watermark = timestamp
            seen = ingest
            events.append(event)
            stream_time_ms.append(watermark)
        self._lane, self._watermark, self._seen = lane, watermark, seen
        return events


def _lane_column(headers: Sequence[Headers]) -> list[str]:
    if not any(headers):
        return [LIVE] * len(headers)
    ids: dict[bytes | None, str] = {None: LIVE}
    column = []
    for each in headers:
        raw = None
        for name, value in each:  # inlined: each event has a header that says its origin
            if name == LANE_HEADER:
                raw = value
                break
        lane = ids.get(raw)
        if lane is None:
            lane = ids[raw] = lane_id(raw)
        column.append(lane)
    return column


def _unreadable(raw: bytes | None) -> str:
    if raw is None:
        return "the record has no value"
    return f"must be at most {rules.EVENT_BYTES_MAX} bytes, not {len(raw)}"


def _reject(index: int, error: Exception) -> Reject:
    if isinstance(error, UnicodeDecodeError):
        return Reject(index, f"not valid UTF-8 at byte {error.start}")
    if isinstance(error, RecursionError):
        return Reject(index, "not valid JSON: nested too deep")
    text = str(error)
    found = _FIELD.search(text)
    return Reject(index, text[:REASON_MAX], "" if found is None else found[1])
