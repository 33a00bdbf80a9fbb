"""One decoding of a batch for all steps of the topic, with each record's stream time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.engine.batch import Headers, RecordBatch
from app.engine.effects import Reject
from app.engine.lanes import LANE_HEADER, LIVE, Lanes, lane_id
from app.models import rules
from app.models.event import DECODE_ERRORS, LogEvent, decode_event

REASON_MAX = 300
"""Characters of a reason: the parser quotes what it was given."""

_FUTURE = f"must not be more than {rules.FUTURE_MS_MAX // 60_000} minutes in the future"
_FIELD = re.compile(r"(?:at `\$\.|missing required field `)([a-z_]+)")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The events of a batch as columns of one length, in offset order, without the rejects.

    ``index`` is the event's place in the record batch. ``stream_time_ms`` is the highest
    event time its lane had accepted once this event was, so it never falls within a lane.
    ``lanes`` are lane ids. ``moved`` is what :meth:`Lanes.advanced` takes: lane -> (highest
    event time, ingest time of its last event), for the lanes that had one.
    """

    events: Sequence[LogEvent]
    index: Sequence[int]
    stream_time_ms: Sequence[int]
    lanes: Sequence[str]
    moved: Mapping[str, tuple[int, int]]
    rejects: Sequence[Reject]


def read_events(batch: RecordBatch, lanes: Lanes) -> EventBatch:
    """Decode a batch. Each record becomes an event or a reject with field and reason.

    A record that is not an event, or is more than 5 minutes ahead of its ingest, moves no
    watermark and costs only itself. Never raises, whatever the records hold.
    """
    column = _lane_column(batch.headers)
    events: list[LogEvent] = []
    stream_time_ms: list[int] = []
    rejects: list[Reject] = []
    moved: dict[str, tuple[int, int]] = {}
    lane, watermark, seen = LIVE, lanes.watermark(LIVE), None
    index = -1
    for raw, ingest, of_lane in zip(batch.values, batch.timestamps, column, strict=True):
        index += 1
        if of_lane != lane:
            if seen is not None:
                moved[lane] = (watermark, seen)
            lane = of_lane
            watermark, seen = moved.get(lane, (lanes.watermark(lane), None))
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
    if seen is not None:
        moved[lane] = (watermark, seen)
    places: Sequence[int] = range(len(batch))
    if rejects:
        refused = {reject.index for reject in rejects}
        places = [i for i in places if i not in refused]
        column = [column[i] for i in places]
    return EventBatch(events, places, stream_time_ms, column, moved, rejects)


def _lane_column(headers: Sequence[Headers]) -> Sequence[str]:
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
