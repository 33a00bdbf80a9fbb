"""Aggregates whose states are stored as msgpack."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import msgspec

from app.engine.effects import Aggregate

S = TypeVar("S")

_encoder = msgspec.msgpack.Encoder()


class Packed(Aggregate[S]):
    """How the states of ``kind`` are stored; what merging means, a table says."""

    kind: ClassVar[type[Any]]

    def __init__(self) -> None:
        self._decoder: msgspec.msgpack.Decoder[S] = msgspec.msgpack.Decoder(self.kind)

    def encode(self, state: S) -> bytes:
        """Msgpack array of the fields in order."""
        return _encoder.encode(state)

    def decode(self, raw: bytes) -> S:
        """Inverse of :meth:`encode`; raises :class:`msgspec.MsgspecError` on anything else."""
        return self._decoder.decode(raw)
