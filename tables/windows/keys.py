"""Row keys of a window table: the key's bytes, then the window's start.

Layout: two bytes big-endian length of the key, the key in UTF-8, eight bytes big-endian
start (epoch ms, >= 0). So the rows of one key lie together, in order of time, and no
key's rows fall between another's.
"""

from __future__ import annotations

from struct import Struct

_LENGTH = Struct(">H")
_START = Struct(">Q")

KEY_BYTES_MAX = 0xFFFF
START_MAX = 0xFFFF_FFFF_FFFF_FFFF
_LAST = b"\xff" * 8 + b"\x00"


def fits(key: str) -> bool:
    """Whether a row key can hold it: UTF-8 of at most 65 535 bytes."""
    if len(key) * 4 <= KEY_BYTES_MAX and key.isascii():
        return True
    try:
        return len(key.encode()) <= KEY_BYTES_MAX
    except UnicodeEncodeError:
        return False


def key_prefix(key: str) -> bytes:
    """What every row key of the key starts with, and no other row key does.

    Raises :class:`ValueError` when the key does not fit (see :func:`fits`).
    """
    raw = key.encode()
    if len(raw) > KEY_BYTES_MAX:
        raise ValueError(f"a window key has at most {KEY_BYTES_MAX} bytes, not {len(raw)}")
    return _LENGTH.pack(len(raw)) + raw


def row_key(key: str, start_ms: int) -> bytes:
    """Row key of the key's window that starts at ``start_ms``.

    Raises :class:`ValueError` for a key that does not fit or a start outside 0..2^64-1.
    """
    if not 0 <= start_ms <= START_MAX:
        raise ValueError(f"a window starts between 0 and 2^64-1, not at {start_ms}")
    return key_prefix(key) + _START.pack(start_ms)


def parse_row_key(raw: bytes) -> tuple[str, int]:
    """Inverse of :func:`row_key`; raises :class:`ValueError` on anything else."""
    if len(raw) < 10 or len(raw) != 10 + _LENGTH.unpack_from(raw)[0]:
        raise ValueError(f"not the row key of a window: {raw[:64]!r}")
    return raw[2:-8].decode(), _START.unpack_from(raw, len(raw) - 8)[0]


def after_key(key: str) -> bytes:
    """Least bytes greater than every row key of the key: where the next key's rows begin."""
    return key_prefix(key) + _LAST


def after_prefix(raw: bytes) -> bytes:
    """As :func:`after_key`, of a row key, whatever stands before it."""
    return raw[:-8] + _LAST


def pane_start_ms(raw: bytes) -> int:
    """Start in a row key, which is not looked at further."""
    return int.from_bytes(raw[-8:], "big")
