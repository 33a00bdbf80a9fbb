"""How far each lane has come, as the global stage knows it: lane key -> mark.

Row key: the lane key (``source partition/lane id``) in UTF-8. One lane id on all its source
partitions is one source of time: it has come as far as the least of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.engine.chunks import LaneMark, lane_key
from app.engine.effects import TableSpec, View
from app.engine.lanes import LIVE
from tables.packed import Packed

LANES_TABLE = "lanes"
EVERY = ("*",)
"""Stands for every lane there is."""
ROW_LANES_MAX = 64
"""Lanes a row remembers one by one; a row fed by more waits for every lane there is."""
MARKS_MAX = 4_096
FOREVER = 1 << 62
"""Watermark of a lane nobody waits for."""
NEVER = -1
"""Watermark of a lane that has not spoken."""


class LaneMarks(Packed[LaneMark]):
    """The latest mark of a lane wins."""

    kind = LaneMark

    def merge(self, left: LaneMark, right: LaneMark) -> LaneMark:
        """The later of both; see :meth:`LaneMark.merged`."""
        return left.merged(right)


def lanes_table() -> TableSpec:
    """The table of marks, one per partition of the global stage."""
    return TableSpec(LANES_TABLE, "lane-mark-1", LaneMarks())


def add_marks(rows: dict[bytes, LaneMark], marks: Mapping[str, LaneMark]) -> None:
    """Take marks by lane key in among rows of the table, each the latest of its lane."""
    for lane, mark in marks.items():
        key = lane.encode()
        held = rows.get(key)
        rows[key] = mark if held is None else held.merged(mark)


def lane_of(key: str) -> str:
    """Lane id of a lane key."""
    return key.partition("/")[2]


def merge_lanes(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    """Union of lane keys, sorted; :data:`EVERY` when it has more than :data:`ROW_LANES_MAX`."""
    if left == right or not right or (len(right) == 1 and right[0] in left):
        return left
    if not left:
        return right
    if EVERY in (left, right):
        return EVERY
    return fed_by({*left, *right})


def fed_by(lanes: Iterable[str]) -> tuple[str, ...]:
    """Different lane keys as a row has them: sorted; :data:`EVERY` above the bound."""
    keys = tuple(sorted(lanes))
    return keys if len(keys) <= ROW_LANES_MAX else EVERY


@dataclass(frozen=True, slots=True)
class LaneTimes:
    """Watermarks by lane id, over all source partitions.

    The live lane has come nowhere (:data:`NEVER`) until each of the ``sources`` partitions
    was heard of. Other lanes live on the partitions that were heard of. An idle lane holds
    nothing open; a lane that is not known is long gone (:data:`FOREVER`).
    """

    watermarks: Mapping[str, int]

    @classmethod
    def of(cls, marks: Mapping[str, LaneMark], sources: int) -> LaneTimes:
        """From marks by lane key, and the number of source partitions."""
        watermarks: dict[str, int] = {}
        live = 0
        for key, mark in marks.items():
            lane = lane_of(key)
            live += lane == LIVE
            at = FOREVER if mark.idle else mark.watermark_ms
            watermarks[lane] = min(at, watermarks.get(lane, FOREVER))
        if live < sources:
            watermarks[LIVE] = NEVER
        return cls(watermarks)

    def of_lane(self, lane: str) -> int:
        """Watermark of a lane id."""
        return self.watermarks.get(lane, FOREVER)

    def of_row(self, lanes: Iterable[str]) -> int:
        """Least watermark of the lanes (keys) that fed a row; :data:`EVERY` means all."""
        keys = tuple(lanes)
        if keys == EVERY:
            return min(self.watermarks.values(), default=FOREVER)
        return min((self.of_lane(lane_of(key)) for key in keys), default=FOREVER)


def lanes_seen(view: View, sources: int) -> dict[str, LaneMark]:
    """Marks by lane key, as the open epoch knows them.

    Those of the live lanes of all ``sources`` partitions, and at most :data:`MARKS_MAX` others.
    """
    table = view.table(LANES_TABLE)
    marks: dict[str, LaneMark] = {}
    for key, _ in table.range(b"", None, limit=MARKS_MAX):
        mark = table.get(key)  # range shows what is committed, get what the open epoch knows
        if mark is not None:
            marks[key.decode()] = mark
    if len(marks) >= MARKS_MAX:
        for source in range(sources):
            live = lane_key(source, LIVE)
            mark = table.get(live.encode())
            if mark is not None:
                marks[live] = mark
    return marks


def lanes_without(view: View, gone: Iterable[bytes]) -> list[str]:
    """Ids of the lanes that have no mark left once those of these lane keys are gone."""
    rows = view.table(LANES_TABLE).range(b"", None, limit=MARKS_MAX)
    keys = set(gone)
    left = {lane_of(key.decode()) for key, _ in rows if key not in keys}
    return sorted({lane_of(key.decode()) for key in keys} - left)


def lane_times(view: View, source_topic: str) -> LaneTimes:
    """Times of the lanes that feed this partition from ``source_topic``."""
    sources = view.partitions(source_topic)
    return LaneTimes.of(lanes_seen(view, sources), sources)
