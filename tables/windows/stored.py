"""A pane's state as it is stored, its histogram left encoded until somebody asks for it. Pure.

Most of what a row takes to decode is its histogram, and most rows that are read are of
windows whose quantiles were found when they closed.
"""

from __future__ import annotations

import msgspec

from tables.windows.stats import WindowStats, decode_stats, deviation


class StoredStats(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """The fields of a :class:`WindowStats`, in its order, which its encoding relies on."""

    count: int = 0
    errors: int = 0
    n: int = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None
    encoded_hist: msgspec.Raw = msgspec.Raw(msgspec.msgpack.encode({}))
    late: int = 0
    lanes: tuple[str, ...] = ()
    updated_ms: int = 0
    sumsq: int = 0
    codes: dict[int, int] = {}
    distinct: bytes = b""
    wide: bytes = b""

    @property
    def hist(self) -> dict[int, int]:
        """The histogram, decoded each time."""
        return _hist_decoder.decode(self.encoded_hist)

    @property
    def stddev(self) -> float | None:
        """See :attr:`WindowStats.stddev`."""
        return deviation(self.n, self.sum, self.sumsq)


_decoder = msgspec.msgpack.Decoder(StoredStats)
_hist_decoder = msgspec.msgpack.Decoder(dict[int, int])


def decode_stored(raw: bytes) -> WindowStats | StoredStats:
    """As :func:`decode_stats`, but for the histogram. Raises :class:`ValueError`."""
    state = _decoder.decode(raw)
    return decode_stats(raw) if state.wide else state
