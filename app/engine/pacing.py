"""How much work is done at once: records of a batch, bytes of a turn, time of an epoch. Pure.

What keeps up works in small pieces, so that queries are answered in between and results are
committed soon. What has fallen behind gains nothing from that: its results are late anyway,
and larger pieces cost less for each record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SIZE_START = 500
SIZE_MIN = 50
SIZE_MAX = 5_000
QUICK_S = 0.050
SLOW_S = 0.100
GROWTH = 1.1

KEEPS_UP_S = 0.5
"""Work waiting for less is what comes and goes between two epochs."""
LATE_SHARE = 6
"""An epoch delays what waits by at most one part in so many of what it is late already."""
SPAN_MIN_S = 0.025
"""A commit costs the worker and the broker some ten milliseconds each, however little is in it."""
CPU_SHARE = 5
LATE_SPANS = 20
"""Commit intervals the longest epoch may take."""

TURN_S = 0.004
TURN_LATE_S = 0.050
TURN_ASKED_S = 0.008
ASKED_SPAN_S = 0.25
"""For so long after a query more are expected."""
TURN_SHARE = 40
TURN_BYTES_MIN = 32 << 10
"""Some fifty events: work that costs the same for each batch is not done record by record."""
FETCH_SPAN_S = 0.5
FETCH_WAIT_MS_MAX = 5
FETCH_RECORDS = 1_000
"""A fetch waits a millisecond for so many records a second."""

FOLD_MIN = 500
FOLD_MAX = 4_096
"""As many records still lie in the processor's cache when partials are made of them."""
FOLD_SHARE = 8
"""With so many records for each partial, more of them would not make partials fewer."""

_SECONDS_PER_BYTE = 1e-8
_SECONDS_PER_RECORD = 4e-6
_WEIGHT = 0.2


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


@dataclass(slots=True)
class TurnSize:
    """Bytes of records that a step works on in one turn of the event loop.

    Records differ in what they hold (an event, or the partials of thousands), so a turn is
    measured in bytes. What a byte costs is learnt from the turns so far.
    """

    seconds_per_byte: float = _SECONDS_PER_BYTE

    def size(self, seconds: float) -> int:
        """Bytes that take about so long; no fewer than :data:`TURN_BYTES_MIN`."""
        return max(TURN_BYTES_MIN, int(seconds / self.seconds_per_byte))

    def observe(self, size: int, seconds: float) -> None:
        """Take note of a turn of ``size`` bytes that took ``seconds``."""
        if size > 0:
            self.seconds_per_byte += _WEIGHT * (seconds / size - self.seconds_per_byte)


@dataclass(slots=True)
class FoldSize:
    """When an epoch makes partials of what it gathered of a topic before it ends, in one turn.

    Where there are few keys, as soon as they fill a turn: as many come of a part of the records
    as of all. Where there are many, never: parts of an epoch would make partials of the same keys,
    which would have to be merged. What a record costs is learnt from the turns so far.
    """

    partials: int = 0
    """What was made last, of a whole epoch or of a part."""
    seconds_per_record: float = _SECONDS_PER_RECORD

    def due(self, gathered: int, seconds: float) -> bool:
        """Whether to do it now, in a turn of so long."""
        size = min(FOLD_MAX, int(seconds / self.seconds_per_record))
        return gathered >= max(FOLD_MIN, size) and self.partials * FOLD_SHARE <= FOLD_MAX

    def observe(self, records: int, partials: int, seconds: float) -> None:
        """Take note of ``records`` that became ``partials`` in ``seconds``."""
        self.partials = partials
        if records:
            self.seconds_per_record += _WEIGHT * (seconds / records - self.seconds_per_record)


def behind_s(elapsed_s: float, taken: Mapping[str, int], waiting: Mapping[str, int]) -> float:
    """How long what waits will take, at the pace of the last epoch; of the slowest topic.

    ``taken``: records by topic in an epoch of ``elapsed_s``, ``waiting``: those not yet
    worked on. A topic of which nothing was taken has no pace and says nothing.
    """
    times = (elapsed_s * waiting.get(topic, 0) / records for topic, records in taken.items())
    return max(times, default=0.0)


def normal_s(cost_s: float, interval_s: float) -> float:
    """How long an epoch of work that is not late stays open.

    The commit before took its thread ``cost_s`` of CPU: that is kept near a fifth of a core.
    """
    return min(interval_s, max(SPAN_MIN_S, cost_s * CPU_SHARE))


def epoch_s(normal_s: float, interval_s: float, late_s: float) -> float:
    """How long an epoch stays open: ``normal_s``, or longer when work is ``late_s`` behind."""
    return max(normal_s, min(LATE_SPANS * interval_s, (late_s - KEEPS_UP_S) / LATE_SHARE))


def turn_s(late_s: float, asked_s: float) -> float:
    """How long a step may hold the event loop.

    Work is ``late_s`` behind, and the last query came ``asked_s`` ago: whoever asks waits for
    half a turn, late or not.
    """
    longest_s = TURN_ASKED_S if asked_s < ASKED_SPAN_S else TURN_LATE_S
    return min(longest_s, max(TURN_S, (late_s - KEEPS_UP_S) / TURN_SHARE))


@dataclass(slots=True)
class FetchPace:
    """How long the broker may wait for more records before it answers a fetch.

    Records that come one by one are fetched at once. Of many, each fetch, and each batch it
    becomes, costs the same for a few as for hundreds: waiting a little makes them fewer.
    """

    wait_ms: int = 0
    """0: answer as soon as there is anything."""
    _records: int = 0
    _began_s: float = 0.0

    def observe(self, records: int, now_s: float) -> None:
        """Take note of ``records`` that were fetched by ``now_s`` (monotonic)."""
        self._records += records
        elapsed_s = now_s - self._began_s
        if elapsed_s >= FETCH_SPAN_S:
            wait_ms = int(self._records / elapsed_s / FETCH_RECORDS)
            self.wait_ms = min(FETCH_WAIT_MS_MAX, wait_ms)
            self._records, self._began_s = 0, now_s
