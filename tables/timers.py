"""Event-time timers: what a partition has to do once a lane has come to a time.

A row per timer and no value. Row key: lane id, NUL, eight bytes big-endian due time (epoch
ms), payload; so the timers of a lane lie together in order of time, and those that are due
are one range from its beginning. Setting a timer twice is setting it once. A step sets
timers with the update that makes them needed; the event-time tick runs and deletes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from app.engine.chunks import LaneMark
from app.engine.effects import Aggregate, TableSpec, View
from app.engine.lanes import LIVE
from tables.lanes import LANES_TABLE, lane_of

TIMERS_TABLE = "timers"
DUE_MAX = (1 << 63) - 1

_DUE = Struct(">Q")
_SET = b"1"


@dataclass(frozen=True, slots=True)
class Timer:
    """Due once the watermark of the lane (id) is at least ``due_ms``."""

    lane: str
    due_ms: int
    payload: bytes

    def key(self) -> bytes:
        """Row key. Lane ids hold no NUL."""
        return (
            self.lane.encode() + b"\0" + _DUE.pack(min(max(self.due_ms, 0), DUE_MAX)) + self.payload
        )


def parse_timer(raw: bytes) -> Timer:
    """Inverse of :meth:`Timer.key`; raises :class:`ValueError` on anything else."""
    lane, separator, rest = raw.partition(b"\0")
    if not separator or len(rest) < _DUE.size:
        raise ValueError(f"not the row key of a timer: {raw[:64]!r}")
    return Timer(lane.decode(), _DUE.unpack_from(rest)[0], rest[_DUE.size :])


class Timers(Aggregate[bool]):
    """A timer is set or is not there."""

    def merge(self, left: bool, right: bool) -> bool:
        """Set."""
        return left or right

    def encode(self, state: bool) -> bytes:  # noqa: ARG002 - as above
        """One byte: an empty value would read as a tombstone in some tools."""
        return _SET

    def decode(self, raw: bytes) -> bool:  # noqa: ARG002 - whatever it is, it is there
        """Set."""
        return True


def timers_table(identity: str = "timer-1") -> TableSpec:
    """The table of timers of a table group; one that counts its timers has its own identity."""
    return TableSpec(TIMERS_TABLE, identity, Timers())


def lane_is_over(view: View, key: bytes, mark: LaneMark) -> bool:
    """Whether a lane's committed mark says no more than if there were none.

    That is so of a backfill that is idle, once no timer waits for it. While there is one the
    mark must stay: timers of a lane without a mark are never looked at.
    """
    lane = lane_of(key.decode())
    if lane == LIVE or not mark.idle or view.table(LANES_TABLE).get(key) != mark:
        return False
    lo, hi = Timer(lane, 0, b"").key(), lane.encode() + b"\x01"
    return not any(view.table(TIMERS_TABLE).range(lo, hi, limit=1))
