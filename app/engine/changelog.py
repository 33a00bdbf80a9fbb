"""Layout of a changelog: one compacted topic per table group, co-partitioned with its source.

Key ``identity NUL key`` holds a table's row (None: deleted); key :data:`POSITION_KEY` holds
the source position that all rows up to it account for. An epoch writes the position last,
so whoever has read it has read everything it speaks of.

Key ``NUL since NUL identity`` says that a table began anew: what lies before it of that
identity is void, for a restore as for its owner. Compaction keeps the order of the two.
"""

from __future__ import annotations

POSITION_KEY = b"\0position"
_SINCE = b"\0since\0"


def row_record_key(identity: str, key: bytes) -> bytes:
    """Changelog key of a table's row. ``identity`` holds no NUL."""
    return identity.encode() + b"\0" + key


def parse_record_key(raw: bytes) -> tuple[str, bytes] | None:
    """``(identity, key)`` of a row's changelog key; None for anything else."""
    identity, separator, key = raw.partition(b"\0")
    if not separator or not identity:
        return None
    try:
        return identity.decode(), key
    except UnicodeDecodeError:
        return None


def since_key(identity: str) -> bytes:
    """Changelog key of the record that says since which source offset a table is in force."""
    return _SINCE + identity.encode()


def parse_since_key(raw: bytes) -> str | None:
    """Identity of a table that began anew; None for any other key."""
    return raw[len(_SINCE) :].decode("utf-8", "replace") if raw.startswith(_SINCE) else None


def parse_position(raw: bytes | None) -> int | None:
    """Source position of a position record; None when it is not one."""
    if raw is None or not raw.isdigit() or len(raw) > 19:
        return None
    return int(raw)
