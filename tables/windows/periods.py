"""What is known of the panes of a period as a whole: whether it may be dropped. Pure.

Row key of the table ``periods``: the window's name, NUL, eight bytes big-endian start of the
period (see :mod:`tables.windows.keys`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from app.engine.effects import TableSpec
from tables.packed import Packed
from tables.windows.keys import period_of, period_prefix

PERIODS_TABLE: Final = "periods"
STEP_MS: Final = 60_000
"""Times are kept as the next full minute: a period's row changes once in one, not each epoch."""


class Period(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The panes of one window that start in a period, and the windows that do.

    ``updated_ms``: no pane was updated later; ``written_ms``: no window was written later (wall
    clock, rounded up). ``timers`` of its windows are set and have not fired. ``lapsed``: one
    fired while nobody declared the window, or the period was found without a row: what was
    written is told by its panes alone.
    """

    updated_ms: int = 0
    written_ms: int = 0
    timers: int = 0
    lapsed: bool = False


class Periods(Packed[Period]):
    """Times by the latest, timers by their number."""

    kind = Period

    def merge(self, left: Period, right: Period) -> Period:
        """Both, combined."""
        return Period(
            max(left.updated_ms, right.updated_ms),
            max(left.written_ms, right.written_ms),
            left.timers + right.timers,
            left.lapsed or right.lapsed,
        )


def periods_table() -> TableSpec:
    """The table of periods, one per partition of the global stage."""
    return TableSpec(PERIODS_TABLE, "period-1", Periods())


def period_key(name: str, start_ms: int) -> bytes:
    """Row key of the period of a window's panes that start then; names hold no NUL."""
    return name.encode() + b"\0" + period_prefix(start_ms)


def parse_period_key(raw: bytes) -> tuple[str, int]:
    """Inverse of :func:`period_key`; raises :class:`ValueError` on anything else."""
    name, separator, start = raw[:-8], raw[-9:-8], int.from_bytes(raw[-8:], "big")
    if separator != b"\0" or start != period_of(start):
        raise ValueError(f"not the row key of a period: {raw[:64]!r}")
    return name[:-1].decode(), start


def rounded_up(at_ms: int) -> int:
    """The full minute at or after a moment."""
    return -(-at_ms // STEP_MS) * STEP_MS
