"""A hash over the live entities, equal for equal states however they are spread or read."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

_BYTES: Final = 16


def digest(key: bytes, value: bytes) -> int:
    """128-bit hash of one live entity: its key and its value on ``entity-state``."""
    return int.from_bytes(blake2b(key + b"\0" + value, digest_size=_BYTES).digest(), "big")


def snapshot_hash(digests: Iterable[int]) -> str:
    """32 hex digits: the sum of the digests modulo 2^128.

    A sum, so that neither the order of entities nor their partitions matter.
    """
    return f"{sum(digests) % (1 << 8 * _BYTES):032x}"
