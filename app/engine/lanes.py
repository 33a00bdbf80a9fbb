"""Watermarks per lane: a lane is one source partition and one source of time.

Live traffic of a partition is the lane named ``""``; each backfill (a shipped old file,
marked by the record header ``lane``) is a lane of its own. So an old file and live
traffic neither make each other late nor hold each other's windows open.

Lanes are immutable values. They are stored as the metadata of the committed offset, so
a replay from that offset makes the same decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LIVE = ""
LANE_HEADER = "lane"
LANES_MAX = 32
"""Bound of lanes per partition: 32 * ~55 bytes stays under Kafka's 4 096 bytes of metadata."""
LANE_ID_MAX = 24
NO_WATERMARK = -1


@dataclass(frozen=True, slots=True)
class Lane:
    """How far a source of time has come.

    ``watermark_ms``: highest event time accepted; ``seen_ms``: when the last record came
    or, where it had waited, was worked on; ``idle``: nothing came for the idle timeout, so
    no window waits for it.
    """

    watermark_ms: int
    seen_ms: int
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of one source partition, by lane id.

    ``forgotten`` are those that :meth:`advanced` had no room for. They are not stored: whoever
    applies the new lanes says of them that they are idle, as they may never have been lanes of
    the old ones.
    """

    by_id: Mapping[str, Lane] = field(default_factory=dict)
    forgotten: Mapping[str, Lane] = field(default_factory=dict, compare=False)

    def watermark(self, lane: str) -> int:
        """Highest event time of the lane, or :data:`NO_WATERMARK`."""
        known = self.by_id.get(lane)
        return NO_WATERMARK if known is None else known.watermark_ms

    def advanced(self, moved: Mapping[str, tuple[int, int]]) -> Lanes:
        """Lanes after records of ``lane -> (highest event time, ingest time)``.

        A watermark never goes back. Above :data:`LANES_MAX` the backfill lane that was
        silent the longest is forgotten; the live lane never is.
        """
        lanes = dict(self.by_id)
        for name, (event_ms, seen_ms) in moved.items():
            old = lanes.get(name)
            lanes[name] = Lane(
                event_ms if old is None else max(event_ms, old.watermark_ms),
                seen_ms if old is None else max(seen_ms, old.seen_ms),
            )
        forgotten: dict[str, Lane] = {}
        if len(lanes) > LANES_MAX:
            silent = sorted((n for n in lanes if n != LIVE), key=lambda n: (lanes[n].seen_ms, n))
            for name in silent[: len(lanes) - LANES_MAX]:
                forgotten[name] = lanes.pop(name)
        return Lanes(lanes, forgotten)

    def retired(self, now_ms: int, idle_ms: int, since_ms: int = 0) -> Lanes:
        """Lanes after ``idle_ms`` of silence is taken into account at ``now_ms``.

        Silence counts from ``since_ms`` at the earliest.
        Silent backfills are forgotten. A silent live lane is marked idle: it holds no
        window open, but keeps its watermark, so that stream time never moves back.
        Returns ``self`` when nothing changes.
        """
        lanes: dict[str, Lane] = {}
        changed = False
        for name, lane in self.by_id.items():
            silent = now_ms - max(lane.seen_ms, since_ms) >= idle_ms
            if silent and name != LIVE:
                changed = True
            elif silent and not lane.idle:
                lanes[name] = Lane(lane.watermark_ms, lane.seen_ms, idle=True)
                changed = True
            else:
                lanes[name] = lane
        return Lanes(lanes) if changed else self

    def encode(self) -> str:
        """Text for the offset's metadata: ``id,watermark,seen,idle`` joined by ``;``."""
        return ";".join(
            f"{name},{lane.watermark_ms},{lane.seen_ms},{int(lane.idle)}"
            for name, lane in sorted(self.by_id.items())
        )

    @classmethod
    def decode(cls, text: str) -> Lanes:
        """Inverse of :meth:`encode`; metadata written by something else gives no lanes."""
        lanes: dict[str, Lane] = {}
        for part in text.split(";") if text else ():
            fields = part.split(",")
            if len(fields) != 4:
                return cls()
            try:
                lanes[fields[0]] = Lane(int(fields[1]), int(fields[2]), fields[3] == "1")
            except ValueError:
                return cls()
        return cls(lanes)

    def __iter__(self) -> Iterator[tuple[str, Lane]]:
        return iter(self.by_id.items())


def lane_id(raw: bytes | None) -> str:
    """Lane named by a record's header; anything that is not a short plain name is live traffic."""
    if raw is None or not 0 < len(raw) <= LANE_ID_MAX or not raw.isascii():
        return LIVE
    name = raw.decode("ascii")
    return name if name.replace("-", "").isalnum() else LIVE
