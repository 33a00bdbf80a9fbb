"""How far each lane has come, as the global stage knows it: lane key -> mark.

Row key: the lane key (``source partition/lane id``) in UTF-8. A lane without a row, or
whose mark is idle, holds no window open.
"""

from __future__ import annotations

import msgspec

from app.engine.chunks import LaneMark
from app.engine.effects import Aggregate, TableSpec

LANES_TABLE = "lanes"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LaneMark)


class LaneMarks(Aggregate[LaneMark]):
    """The latest mark of a lane wins."""

    def merge(self, left: LaneMark, right: LaneMark) -> LaneMark:
        """The later of both; see :meth:`LaneMark.merged`."""
        return left.merged(right)

    def encode(self, state: LaneMark) -> bytes:
        """Msgpack array of the fields in order."""
        return _encoder.encode(state)

    def decode(self, raw: bytes) -> LaneMark:
        """Inverse of :meth:`encode`; raises :class:`msgspec.MsgspecError` on anything else."""
        return _decoder.decode(raw)


def lanes_table() -> TableSpec:
    """The table of marks, one per partition of the global stage."""
    return TableSpec(LANES_TABLE, "lane-mark-1", LaneMarks())
