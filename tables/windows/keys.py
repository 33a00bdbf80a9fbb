"""Row keys of a window table: the period, the key's bytes, then the pane's start.

Layout: eight bytes big-endian start of the period (epoch ms), two bytes big-endian length of
the key, the key in UTF-8, eight bytes big-endian start (epoch ms, >= 0). So all rows of a
period are one range, which retention drops as a whole; within it the rows of one key lie
together, in order of time, and no key's rows fall between another's.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PERIOD_MS: Final = 3 * 60 * 60 * 1000
"""Panes that start in one period lie, and go, together: a day of one key is eight ranges.

The same for every window, because what is stored must not move when a retention is changed.
"""

_LENGTH = Struct(">H")
_START = Struct(">Q")
_HEAD = Struct(">QH")

KEY_BYTES_MAX = 0xFFFF
START_MAX = 0xFFFF_FFFF_FFFF_FFFF
_LAST = b"\xff" * 8 + b"\x00"
_PERIOD_END = b"\xff\xff\xff"
"""After every key: one of the greatest length goes on in UTF-8, which has no such byte."""


def fits(key: str) -> bool:
    """Whether a row key can hold it: UTF-8 of at most 65 535 bytes."""
    if len(key) * 4 <= KEY_BYTES_MAX and key.isascii():
        return True
    try:
        return len(key.encode()) <= KEY_BYTES_MAX
    except UnicodeEncodeError:
        return False


def period_of(start_ms: int) -> int:
    """Start of the period that a pane (or window) which starts then belongs to."""
    return start_ms - start_ms % PERIOD_MS


def key_prefix(key: str) -> bytes:
    """What follows the period in every row key of the key, and in no other: the order of keys.

    Raises :class:`ValueError` when the key does not fit (see :func:`fits`).
    """
    raw = key.encode()
    if len(raw) > KEY_BYTES_MAX:
        raise ValueError(f"a window key has at most {KEY_BYTES_MAX} bytes, not {len(raw)}")
    return _LENGTH.pack(len(raw)) + raw


def timed_key(key: str, start_ms: int) -> bytes:
    """Key and start without the period.

    Raises :class:`ValueError` for a key that does not fit or a start outside 0..2^64-1.
    """
    if not 0 <= start_ms <= START_MAX:
        raise ValueError(f"a window starts between 0 and 2^64-1, not at {start_ms}")
    return key_prefix(key) + _START.pack(start_ms)


def parse_timed_key(raw: bytes) -> tuple[str, int]:
    """Inverse of :func:`timed_key`; raises :class:`ValueError` on anything else."""
    if len(raw) < 10 or len(raw) != 10 + _LENGTH.unpack_from(raw)[0]:
        raise ValueError(f"not the row key of a window: {raw[:64]!r}")
    return raw[2:-8].decode(), _START.unpack_from(raw, len(raw) - 8)[0]


def row_key(key: str, start_ms: int) -> bytes:
    """Row key of the key's pane that starts at ``start_ms``; raises as :func:`timed_key`."""
    raw = key.encode()
    if not 0 <= start_ms <= START_MAX or len(raw) > KEY_BYTES_MAX:
        return timed_key(key, start_ms)  # which says what is wrong
    return _HEAD.pack(start_ms - start_ms % PERIOD_MS, len(raw)) + raw + _START.pack(start_ms)


def start_suffix(start_ms: int) -> bytes:
    """What every row key of a pane that starts at ``start_ms`` ends with; ordered as starts are."""
    return _START.pack(start_ms)


def parse_row_key(raw: bytes) -> tuple[str, int]:
    """Inverse of :func:`row_key`; raises :class:`ValueError` on anything else."""
    key, start_ms = parse_timed_key(raw[8:])
    if row_period_ms(raw) != period_of(start_ms):
        raise ValueError(f"not the row key of a window: {raw[:64]!r}")
    return key, start_ms


def period_prefix(start_ms: int) -> bytes:
    """What every row key of the period of ``start_ms`` starts with."""
    return _START.pack(period_of(start_ms))


def period_rows(start_ms: int) -> tuple[bytes, bytes]:
    """``[lo, hi)`` of all rows of the period of ``start_ms``."""
    lo = period_prefix(start_ms)
    return lo, lo + _PERIOD_END


def key_rows(key: str, period_ms: int, from_ms: int, to_ms: int) -> tuple[bytes, bytes]:
    """``[lo, hi)`` of the key's rows in the period that start in ``[from_ms, to_ms)``."""
    prefix = period_prefix(period_ms) + key_prefix(key)
    lo = prefix + _START.pack(max(from_ms, period_ms))
    if to_ms >= period_ms + PERIOD_MS or to_ms > START_MAX:
        return lo, prefix + _LAST
    return lo, prefix + _START.pack(max(to_ms, period_ms))


def after_prefix(period_ms: int, prefix: bytes) -> bytes:
    """Least bytes greater than every row key of a key (see :func:`key_prefix`) in a period."""
    return period_prefix(period_ms) + prefix + _LAST


def row_period_ms(raw: bytes) -> int:
    """Period in a row key, which is not looked at further."""
    return int.from_bytes(raw[:8], "big")


def pane_start_ms(raw: bytes) -> int:
    """Start in a row key, which is not looked at further."""
    return int.from_bytes(raw[-8:], "big")
