"""Final windows: how often each has been written, and the record that is written.

Row key of the table ``finals``: the window's name, NUL, then as in :mod:`tables.windows.keys`.
"""

from __future__ import annotations

import msgspec

from app.engine.effects import Aggregate, TableSpec
from tables.windows.keys import row_key

FINALS_TABLE = "finals"


class Written(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was written of a window last.

    ``count`` events were in it. ``meaning`` is the identity of the window's declaration,
    ``updated_ms`` when it was written (wall clock).
    """

    revision: int
    count: int
    meaning: str
    updated_ms: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Written)


class Revisions(Aggregate[Written]):
    """The highest revision wins."""

    def merge(self, left: Written, right: Written) -> Written:
        """The later of both."""
        return max(left, right, key=lambda w: (w.revision, w.count, w.meaning, w.updated_ms))

    def encode(self, state: Written) -> bytes:
        """Msgpack array of the fields in order."""
        return _encoder.encode(state)

    def decode(self, raw: bytes) -> Written:
        """Inverse of :meth:`encode`; raises :class:`msgspec.MsgspecError` on anything else."""
        return _decoder.decode(raw)


def finals_table() -> TableSpec:
    """The table of what was written, one per partition of the global stage."""
    return TableSpec(FINALS_TABLE, "final-1", Revisions())


def final_key(name: str, key: str, start_ms: int) -> bytes:
    """Row key of a window's revisions; names hold no NUL."""
    return name.encode() + b"\0" + row_key(key, start_ms)
