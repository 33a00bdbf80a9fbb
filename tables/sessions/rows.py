"""What the session tables store: a row of sessions per user, and how it is named."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta

from tables.packed import Packed
from tables.sessions.state import Sessions

SESSIONS_MAX = 256
"""Sessions kept in a user's row; of more, the oldest are closed at once and leave it."""


class UserSessions(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """A user's sessions. Every change writes the next ``version`` of the whole row.

    ``left`` counts the sessions that had to leave for want of room, and those that left since;
    the last of them ended at ``left_ms``. A session that begins there or before may have
    the start of one that is gone: that number then tells their ids apart. All this is
    forgotten with the row, when the retention of the user's last session is over.
    """

    version: Annotated[int, Meta(ge=0)]
    sessions: Sessions
    left: Annotated[int, Meta(ge=0)] = 0
    left_ms: int = -1


EMPTY = UserSessions(0, ())


class UserRows(Packed[UserSessions]):
    """The higher version wins.

    Sessions leave a row after their retention, which no union could do; so the union
    (:func:`tables.sessions.state.merge_sessions`) is made by the step, which reads what it
    wrote, and the table keeps its result.
    """

    kind = UserSessions

    def merge(self, left: UserSessions, right: UserSessions) -> UserSessions:
        """The later of both; of one version, whichever compares greater."""
        if left.version != right.version:
            return left if left.version > right.version else right
        return max(left, right, key=self.encode)


def session_id(meaning: bytes, user: str, start_ms: int, number: int = 0) -> str:
    """Id of a session: 32 hex digits, the same wherever and whenever it is made.

    ``meaning`` is the fingerprint of its kind: who declares another gap begins with revision 1
    anew, and the sessions of before keep their ids and revisions.
    """
    begin = f"{start_ms}/{number}" if number else f"{start_ms}"
    named = meaning + f"\0{begin}\0{user}".encode()
    return hashlib.blake2b(named, digest_size=16).hexdigest()
