"""Envelope of re-keyed partials: what the local stage sends to the global stage.

One Kafka record carries the partials of one epoch for one destination partition (split
at :data:`CHUNK_BYTES_MAX`): those of all source partitions of a worker, as one. The last of
them has the marks of the sources' lanes, so that a global window knows how far each lane that
fed it has come: whoever has read a mark has read every partial it speaks of. The first of an
epoch says for an auditor how many records of which source its partials are made of.
"""

from __future__ import annotations

import msgspec

from app.engine.lanes import Lanes, lane_id

CHUNK_BYTES_MAX = 32 * 1024
SOURCE_MAX = 1 << 16
"""Bound of source partitions: a lane key beyond it was written by something else."""
_SOURCE_DIGITS = len(str(SOURCE_MAX))
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
    """``lanes``: lane key -> mark; ``partials``: encoded partials.

    ``positions`` and ``counted`` speak of all chunks of the epoch, and are in one of them:
    source partition -> offset committed with them, and :attr:`app.engine.effects.Partials.counted`.
    """

    lanes: dict[str, LaneMark]
    partials: list[bytes]
    positions: dict[int, int] = {}
    counted: dict[str, dict[int, tuple[int, int]]] = {}


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
    """The chunk of a record, checked: its lanes may exist.

    Raises :class:`ValueError` (of which :class:`msgspec.MsgspecError` is one kind) otherwise.
    """
    if raw is None:
        raise ForeignChunkError("the record has no value")
    chunk = decode_chunk(raw)
    for key in chunk.lanes:
        if not _is_lane_key(key):
            raise ForeignChunkError(f"no lane has the key {key[:64]!r}")
    return chunk


def lane_key(source: int, lane: str) -> str:
    """Name of a lane across source partitions."""
    return f"{source}/{lane}"


def _is_lane_key(key: str) -> bool:
    source, _, lane = key.partition("/")
    if not (source.isascii() and source.isdigit()) or len(source) > _SOURCE_DIGITS:
        return False
    return int(source) < SOURCE_MAX and key == lane_key(int(source), lane_id(lane.encode()))


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
