"""How far time has come for sessions: lanes of data, and the clock where all of them are silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.engine.chunks import LaneMark
from app.engine.effects import View
from app.engine.lanes import LIVE, NO_WATERMARK
from tables.lanes import EVERY, FOREVER, LaneTimes, lane_of, lanes_seen

SOURCE_TOPIC = "log-events"
LISTEN_MS = 30_000
"""From its start a partition listens so long before silence counts: what broke it may wait."""


def session_times(view: View, now_ms: int) -> LaneTimes:
    """Times of the lanes that feed this partition, at ``now_ms``.

    As for windows, but for live traffic that is silent everywhere: a window is then final,
    while a session goes on until the user has been away for the gap. So silence counts as
    time that passes: the live lane goes on by the clock from the furthest it was. But not
    just after a start: of an outage it is not known yet whether anything came meanwhile.
    """
    sources = view.partitions(SOURCE_TOPIC)
    since_ms = view.reading.since_ms
    listened = since_ms >= 0 and now_ms - since_ms >= LISTEN_MS
    return with_silence(lanes_seen(view, sources), sources, now_ms if listened else 0)


def with_silence(marks: Mapping[str, LaneMark], sources: int, now_ms: int) -> LaneTimes:
    """The same from marks by lane key, and the number of source partitions."""
    times = LaneTimes.of(marks, sources)
    if times.of_lane(LIVE) != FOREVER or LIVE not in times.watermarks:
        return times
    silent = [
        mark.watermark_ms + max(0, now_ms - mark.seen_ms)
        for key, mark in marks.items()
        if lane_of(key) == LIVE and mark.watermark_ms > NO_WATERMARK
    ]
    return LaneTimes({**times.watermarks, LIVE: max(silent, default=FOREVER)})


def reached_ms(times: LaneTimes, lanes: Iterable[str]) -> int:
    """How far all the lanes (ids) that fed a session have come; of too many: all there are."""
    ids = tuple(lanes)
    if ids == EVERY:
        return times.of_row(EVERY)
    return min((times.of_lane(lane) for lane in ids), default=FOREVER)


def slowest(times: LaneTimes, lanes: Iterable[str]) -> str:
    """The lane (id) that a session waits for."""
    ids = tuple(lanes)
    return min(times.watermarks if ids == EVERY else ids, key=times.of_lane, default=LIVE)
