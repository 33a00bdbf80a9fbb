"""How many records a step is given at once: enough to be fast, few enough to stay quick."""

from __future__ import annotations

from dataclasses import dataclass

SIZE_START = 500
SIZE_MIN = 50
SIZE_MAX = 5_000
QUICK_S = 0.050
SLOW_S = 0.100
GROWTH = 1.1


@dataclass(slots=True)
class BatchSize:
    """Adapts to the time a batch takes, step and effects included.

    Grows by a tenth while full batches take less than 50 ms, halves when one takes more
    than 100 ms; between 50 and 5 000 records.
    """

    records: int = SIZE_START

    def observe(self, records: int, seconds: float) -> None:
        """Take note of a batch of ``records`` that took ``seconds``.

        A batch that was not full says nothing about a larger one.
        """
        if seconds > SLOW_S:
            self.records = max(SIZE_MIN, self.records // 2)
        elif seconds < QUICK_S and records >= self.records:
            self.records = min(SIZE_MAX, int(self.records * GROWTH) + 1)
