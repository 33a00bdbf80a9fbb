"""How far the timers of each lane are done, so that a scan for due ones begins where they do.

Fired timers are deleted, and a scan from the beginning would pass every tombstone there is.
Row key: the lane id in UTF-8.
"""

from __future__ import annotations

import msgspec

from app.engine.effects import TableSpec
from tables.packed import Packed

PROGRESS_TABLE = "progress"


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Due times (epoch ms) of one lane's timers.

    No timer is due before ``pending_ms``. One that is due before ``next_ms`` was set in the
    epoch that is open or the one before. ``fired_ms`` is the latest that ever fired.
    ``number`` counts the changes of the row: the last one stands.
    """

    number: int = 0
    pending_ms: int = 0
    next_ms: int = 0
    fired_ms: int = -1

    def after_set(self, due_ms: int) -> Progress:
        """Once a timer is set that is due then."""
        if due_ms >= self.next_ms:
            return self
        return Progress(self.number, min(self.pending_ms, due_ms), due_ms, self.fired_ms)

    def after_scan(self, fired_ms: int, upto_ms: int) -> Progress:
        """Once every timer that is due up to ``upto_ms``, and that a scan sees, has fired.

        ``fired_ms`` is the last of them, -1: none. A scan does not see timers set in the open
        epoch: those may be due before ``fired_ms``, so the next scan still begins before them.
        """
        return Progress(
            self.number,
            max(self.pending_ms, min(self.next_ms, upto_ms)),
            max(self.next_ms, fired_ms),
            max(self.fired_ms, fired_ms),
        )


class Latest(Packed[Progress]):
    """The last change stands."""

    kind = Progress

    def merge(self, left: Progress, right: Progress) -> Progress:
        """The later of both."""
        return max(left, right, key=lambda p: (p.number, p.pending_ms, p.next_ms, p.fired_ms))


def progress_table() -> TableSpec:
    """The table of a table group that has timers."""
    return TableSpec(PROGRESS_TABLE, "progress-1", Latest())
