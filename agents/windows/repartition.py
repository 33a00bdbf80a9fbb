"""Re-keying of windows: partials travel to the partition that owns their key."""

from __future__ import annotations

import msgspec

from app.engine.effects import Repartition
from tables.windows.keys import START_MAX, fits
from tables.windows.stats import WindowStats, consistent, merge_stats, narrowed, widened

PartialKey = tuple[str, str, int]
"""Window name, key, window start in epoch ms."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[PartialKey, WindowStats])


def encode_partial(key: PartialKey, stats: WindowStats) -> bytes:
    """Msgpack of ``[[name, key, start], stats]``."""
    try:
        return _encoder.encode((key, stats))
    except OverflowError:  # a sum that 64 bits do not hold
        return _encoder.encode((key, narrowed(stats)))


def decode_partial(raw: bytes) -> tuple[PartialKey, WindowStats]:
    """Inverse of :func:`encode_partial`.

    Raises :class:`ValueError` (of which :class:`msgspec.MsgspecError` is one kind) for
    bytes that no local window wrote: another shape, a key or start that no row has, or
    numbers that contradict each other.
    """
    key, stats = _decoder.decode(raw)
    if stats.wide:
        stats = widened(stats)
    if not fits(key[1]) or not 0 <= key[2] <= START_MAX:
        raise ValueError(f"no row for window start {key[2]} of key {key[1][:64]!r}")
    if not consistent(stats):
        raise ValueError(f"the numbers of key {key[1][:64]!r} contradict each other")
    return key, stats


def _route(key: PartialKey) -> bytes:
    return key[1].encode()


def window_repartition(topic: str) -> Repartition:
    """Partials of every window, by (name, key, start), to the partition of the key."""
    return Repartition(topic, _route, merge_stats, encode_partial, decode_partial)
