"""Envelope of re-keyed partials: what the local stage sends to the global stage.

One Kafka record carries the partials of one epoch for one destination partition (split
at :data:`CHUNK_BYTES_MAX`), the source partition they come from and, in the last of
them, the marks of its lanes, so that a global window knows how far each lane that fed it
has come: whoever has read a mark has read every partial it speaks of.
"""

from __future__ import annotations

import msgspec

from app.engine.lanes import LIVE, Lanes, lane_id

CHUNK_BYTES_MAX = 32 * 1024
POSITION_HEADER = "position"
"""Header of a chunk: the source offset committed with it."""
SOURCE_MAX = 1 << 16
"""Bound of source partitions: a lane key beyond it was written by something else."""
CHUNK_MARKS_MAX = 4_096
"""Marks of one chunk: some 200 KiB. A batch may have a lane for each of its records."""


class LaneMark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far a lane has come; ``idle`` lanes (or retired ones) hold no window open."""

    seen_ms: int
    watermark_ms: int
    idle: bool

    def merged(self, other: LaneMark) -> LaneMark:
        """The later of two marks of one lane (commutative: a plain maximum)."""
        return max(self, other, key=lambda m: (m.seen_ms, m.watermark_ms, m.idle))


class Chunk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """``source``: source partition; ``lanes``: lane id -> mark; ``partials``: encoded partials."""

    source: int
    lanes: dict[str, LaneMark]
    partials: list[bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Chunk)


def encode_chunk(chunk: Chunk) -> bytes:
    """Bytes of a chunk."""
    return _encoder.encode(chunk)


def decode_chunk(raw: bytes) -> Chunk:
    """Inverse of :func:`encode_chunk`; raises :class:`msgspec.MsgspecError` on anything else."""
    return _decoder.decode(raw)


class ForeignChunkError(ValueError):
    """A chunk of the right shape that no local stage wrote."""


def read_chunk(raw: bytes | None) -> Chunk:
    """The chunk of a record, checked: its source and its lanes may exist.

    Raises :class:`ValueError` (of which :class:`msgspec.MsgspecError` is one kind) otherwise.
    """
    if raw is None:
        raise ForeignChunkError("the record has no value")
    chunk = decode_chunk(raw)
    if not 0 <= chunk.source < SOURCE_MAX:
        raise ForeignChunkError(f"no source partition has the number {chunk.source}")
    for lane in chunk.lanes:
        if lane != LIVE and lane_id(lane.encode()) != lane:
            raise ForeignChunkError(f"no lane has the id {lane[:64]!r}")
    return chunk


def lane_key(source: int, lane: str) -> str:
    """Name of a lane across source partitions."""
    return f"{source}/{lane}"


def lane_marks(before: Lanes, after: Lanes) -> dict[str, LaneMark]:
    """Marks of the lanes that moved; a lane that is gone is idle from now on."""
    marks = {
        name: LaneMark(lane.seen_ms, lane.watermark_ms, lane.idle)
        for name, lane in after
        if before.by_id.get(name) != lane
    }
    for name, lane in (*before, *after.forgotten.items()):
        if name not in after.by_id:
            marks[name] = LaneMark(lane.seen_ms, lane.watermark_ms, idle=True)
    return marks
