"""Since which offset of its partition each thing that an agent declares is counted. Pure.

A table, or what else a step counts under a name, is *in force* from the offset at which a
task first had it in its declaration, for as long as no task goes without. Taken out and
declared again, or declared otherwise, it begins anew: from there on, and with nothing kept.
The offsets ride in the metadata of the committed offset (see :mod:`app.engine.counts`), so
they are as exact as it is, whoever owns the partition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

DECLARED_MAX: Final = 80
"""Things an agent may declare: of 26 bytes at most they fit beside the lanes."""
_ENTRY: Final = re.compile(r"([0-9a-f]{8})(?::([0-9a-f]{1,16}))?", re.ASCII)

Since = Mapping[str, int]
"""Fingerprint of a declaration -> the source offset from which it has been in force."""


def fingerprint(identity: str) -> str:
    """Eight hexadecimal digits for an identity of any length."""
    return blake2b(identity.encode(), digest_size=4).hexdigest()


def encode_since(since: Since) -> str:
    """``fingerprint:offset`` (hexadecimal; no offset: 0) joined by blanks."""
    return " ".join(f"{name}:{at:x}" if at else name for name, at in sorted(since.items()))


def decode_since(text: str) -> Since | None:
    """Inverse of :func:`encode_since`; None: nothing is told, or something else wrote it."""
    found = [_ENTRY.fullmatch(part) for part in text.split(" ")[: DECLARED_MAX + 1]]
    if len(found) > DECLARED_MAX:
        return None
    since = {}
    for entry in found:
        if entry is None:
            return None
        since[entry[1]] = int(entry[2] or "0", 16)
    return since


def since_at(identities: Iterable[str], known: Since | None, position: int) -> Since:
    """What a task that goes on at ``position`` says of its declarations.

    ``known`` is what the one before it said. A version that said nothing may have counted any
    of them or none: they are counted from here on.
    """
    names = map(fingerprint, identities)
    return {name: min((known or {}).get(name, position), position) for name in names}


def begun_anew(identities: Iterable[str], known: Since | None) -> list[str]:
    """Identities that the task before did not have, whatever is left of them from earlier."""
    return [] if known is None else [each for each in identities if fingerprint(each) not in known]
