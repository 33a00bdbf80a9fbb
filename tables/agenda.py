"""What a step or a tick does to the timers of its partition: sets them, and finds those due.

Fired timers are deleted, and a scan from the beginning would pass every tombstone there is. So
how far the timers of a lane are done is kept with them (:mod:`tables.progress`).
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from app.engine.effects import View
from tables.lanes import LaneTimes
from tables.progress import PROGRESS_TABLE, Progress
from tables.timers import DUE_MAX, TIMERS_TABLE, Timer, parse_timer


@dataclass(frozen=True, slots=True)
class Due:
    """Due timers of a lane, in order of time: all up to ``upto_ms``, which is stream time."""

    timers: list[Timer]
    upto_ms: int
    whole: bool
    """whether these are all there are"""


class Agenda:
    """Timers of one partition, from one batch or tick to its effects."""

    def __init__(self, view: View) -> None:
        self._timers = view.table(TIMERS_TABLE)
        self._table = view.table(PROGRESS_TABLE)
        self._before: dict[str, Progress] = {}
        self._now: dict[str, Progress] = {}
        self.wanted: dict[bytes, bool] = {}
        """the update of the table of timers"""

    def progress(self, lane: str) -> Progress:
        """How far the lane's timers are done."""
        held = self._now.get(lane)
        if held is None:
            held = self._table.get(lane.encode()) or Progress()
            self._before[lane] = self._now[lane] = held
        return held

    def is_set(self, timer: Timer) -> bool:
        """Whether it is set already."""
        key = timer.key()
        return key in self.wanted or self._timers.get(key) is not None

    def put(self, timer: Timer) -> None:
        """Have it fire once its lane has come to it. Setting it twice is setting it once."""
        self.wanted[timer.key()] = True
        self._now[timer.lane] = self.progress(timer.lane).after_set(timer.due_ms)

    def due(self, lane: str, times: LaneTimes, limit: int) -> Due:
        """Due timers of a lane, at most ``limit``.

        Those set in the open epoch are not among them: the tick of the next one sees them.
        """
        upto_ms = min(times.of_lane(lane), DUE_MAX)
        lo = Timer(lane, self.progress(lane).pending_ms, b"").key()
        hi = Timer(lane, upto_ms + 1, b"").key()
        found = [parse_timer(key) for key, _ in self._timers.range(lo, hi, limit=limit)]
        whole = len(found) < limit
        # What has fired may be committed yet: it counts against the limit, and is passed.
        left = [timer for timer in found if self._timers.get(timer.key()) is not None]
        return Due(left, upto_ms if whole else found[-1].due_ms, whole)

    def done(self, lane: str, fired: list[Timer], upto_ms: int) -> None:
        """All due timers of the lane up to ``upto_ms`` have fired, ``fired`` among them."""
        last = fired[-1].due_ms if fired else -1
        self._now[lane] = self.progress(lane).after_scan(last, min(upto_ms, DUE_MAX))

    def changes(self) -> dict[bytes, Progress]:
        """The update of the table of progress."""
        return {
            lane.encode(): structs.replace(now, number=now.number + 1)
            for lane, now in self._now.items()
            if now != self._before[lane]
        }
