"""What the session tables store: a row of sessions per user, and how it is named."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from app.engine.effects import Aggregate
from tables.sessions.state import Sessions

SESSIONS_MAX = 256
"""Sessions kept in a user's row; of more, the oldest are closed at once and leave it."""


class UserSessions(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A user's sessions. Every change writes the next ``version`` of the whole row."""

    version: Annotated[int, Meta(ge=0)]
    sessions: Sessions


EMPTY = UserSessions(0, ())

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UserSessions)


class UserRows(Aggregate[UserSessions]):
    """The higher version wins.

    Sessions leave a row after their retention, which no union could do; so the union
    (:func:`tables.sessions.state.merge_sessions`) is made by the step, which reads what it
    wrote, and the table keeps its result.
    """

    def merge(self, left: UserSessions, right: UserSessions) -> UserSessions:
        """The later of both; of one version, whichever compares greater."""
        if left.version != right.version:
            return left if left.version > right.version else right
        return max(left, right, key=_encoder.encode)

    def encode(self, state: UserSessions) -> bytes:
        """Msgpack array of the fields in order."""
        return _encoder.encode(state)

    def decode(self, raw: bytes) -> UserSessions:
        """Inverse of :meth:`encode`; raises :class:`msgspec.MsgspecError` on anything else."""
        return _decoder.decode(raw)


def session_id(kind: str, user: str, start_ms: int) -> str:
    """Id of a session: 32 hex digits, the same wherever and whenever it is made."""
    named = f"{kind}\0{start_ms}\0{user}".encode()
    return hashlib.blake2b(named, digest_size=16).hexdigest()
