"""Re-keying of sessions: partials travel to the partition that owns their user."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from app.engine.effects import Repartition
from app.models.rules import KEY_MAX
from tables.sessions.state import Partial, consistent, merge_partials

PartialKey = tuple[str, str, int]
"""Name of the kind of session, user, number of the time span that the sessions start in."""

_User = Annotated[str, Meta(min_length=1, max_length=KEY_MAX)]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, _User, int], Partial])


def encode_partial(key: PartialKey, partial: Partial) -> bytes:
    """Msgpack of ``[[name, user, span], partial]``."""
    return _encoder.encode((key, partial))


def decode_partial(raw: bytes) -> tuple[PartialKey, Partial]:
    """Inverse of :func:`encode_partial`.

    Raises :class:`ValueError` (of which :class:`msgspec.MsgspecError` is one kind) for
    bytes that no local stage wrote: another shape, or numbers that contradict each other.
    """
    key, partial = _decoder.decode(raw)
    if not consistent(partial):
        raise ValueError(f"the sessions of user {key[1][:64]!r} contradict each other")
    return key, partial


def _route(key: PartialKey) -> bytes:
    return key[1].encode()


def session_repartition(topic: str) -> Repartition:
    """Partials of every kind of session, by (name, user, span), to the partition of the user.

    A span bounds a partial: it is a number of gaps long, and sessions start a gap apart.
    """
    return Repartition(topic, _route, merge_partials, encode_partial, decode_partial)
