"""How far a restore has come: what its thread notes, and what is said and measured of it.

The restore's thread writes a :class:`Progress`; the event loop reads it for ``/ready`` and,
once a second, through :class:`RestoreWatch`. Each field is written by one thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.engine.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

SAY_EVERY_S = 5.0
STALL_S = 10.0
"""A restore that has not moved for so long is said to stall, with the cause."""
ASK_AFTER_S = 6.0
"""When to begin to find out the cause: the answers may take seconds."""
_MIB = 1 << 20


@dataclass(slots=True)
class Progress:
    """Of one restore. Sizes are of changelog records: key and value, without framing.

    ``wanted`` and ``passed`` count changelog offsets: compaction and transaction markers
    leave holes, so fewer ``records`` come. ``waiting_for``: what is awaited now, "" when no
    restore is under way. ``cause``: why that does not come, as far as it was found out.
    """

    clock: Clock = field(default_factory=SystemClock)
    records: int = 0
    size_bytes: int = 0
    wanted: int = 0
    passed: int = 0
    waiting_for: str = ""
    cause: str = ""
    _moved_at_s: float = field(init=False)
    _explained_at_s: float = 0.0
    _reading_since_s: float | None = None
    _awaited: set[str] = field(default_factory=set)
    _over: bool = False

    def __post_init__(self) -> None:
        self._moved_at_s = self.clock.monotonic()

    def waits(self, what: str) -> None:
        """The next thing to wait for. To have come so far for the first time is movement."""
        if self._over:
            return
        self.waiting_for = what
        if what not in self._awaited:
            self._awaited.add(what)
            self._moved()

    def end(self) -> None:
        """Nothing is awaited any more, whatever a thread that was not waited for notes yet."""
        self._over, self.waiting_for = True, ""

    def wants(self, offsets: int) -> None:
        """So many more changelog offsets are to be passed."""
        self.wanted = self.passed + offsets
        if self._reading_since_s is None:
            self._reading_since_s = self.clock.monotonic()

    def reads(self, offsets: int, records: int, size_bytes: int) -> None:
        """So many more changelog offsets are passed, which held these records."""
        self.passed += offsets
        self.records += records
        self.size_bytes += size_bytes
        self._moved()

    def _moved(self) -> None:
        self._moved_at_s = self.clock.monotonic()
        self.cause = ""

    def explain(self, cause: str) -> None:
        """Why nothing moves, in a sentence that says what to do if it does not end by itself."""
        self.cause = cause
        self._explained_at_s = self.clock.monotonic()

    def in_doubt(self) -> bool:
        """Whether to find out (again) why nothing moves."""
        known_s = self.clock.monotonic() - self._explained_at_s
        return self.idle_s() >= ASK_AFTER_S and (not self.cause or known_s >= STALL_S)

    def idle_s(self) -> float:
        """Seconds since anything moved; 0 when no restore is under way."""
        return self.clock.monotonic() - self._moved_at_s if self.waiting_for else 0.0

    def stalled(self) -> bool:
        """Whether it is time to say why nothing moves."""
        return self.idle_s() >= STALL_S

    def seconds_left(self) -> float | None:
        """Estimate from the pace of reading so far; None while there is nothing to go by."""
        if self._reading_since_s is None or not self.passed:
            return None
        spent_s = self.clock.monotonic() - self._reading_since_s
        return spent_s * max(0, self.wanted - self.passed) / self.passed

    def __str__(self) -> str:
        """What ``/ready`` and the log say: how far, how much longer, and what is in the way."""
        parts = []
        if self.wanted:
            parts.append(
                f"{self.records:,} changelog records ({self.size_bytes / _MIB:,.1f} MiB) read, "
                f"{max(0, self.wanted - self.passed):,} offsets to go"
            )
            left_s = self.seconds_left()
            if left_s is not None and not self.stalled():
                parts.append(f"about {left_s:.0f} s left")
        if self.waiting_for:
            parts.append(f"waiting for {self.waiting_for}")
        if self.stalled():
            # Whoever waits finds out the cause, unless the broker lets the question wait too.
            cause = self.cause or "the broker does not answer"
            parts.append(f"nothing has moved for {self.idle_s():.0f} s: {cause}")
        return ", ".join(parts)


class RestoreWatch(Collector):
    """Logs and measures the restore of one worker; :meth:`look` about once a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._progress = Progress(clock)
        self._said_at_s = 0.0
        self._warned = False

    def look(self, progress: Progress) -> None:
        """Say how far it is every few seconds, and once what is in the way of a stalled one."""
        if progress is not self._progress:
            self._progress, self._said_at_s, self._warned = progress, self._clock.monotonic(), False
        if not progress.waiting_for:
            return
        if progress.stalled():
            if not self._warned:
                logger.warning("restoring: %s", progress)
            self._warned = True
            return
        self._warned = False
        if self._clock.monotonic() - self._said_at_s >= SAY_EVERY_S:
            self._said_at_s = self._clock.monotonic()
            logger.info("restoring: %s", progress)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Gauges that exist as long as a restore reads changelogs."""
        progress = self._progress
        if not progress.waiting_for or not progress.wanted:
            return
        left_s = progress.seconds_left()
        for name, what, value in (
            (
                "restore_records",
                "Changelog records read by the restore under way",
                progress.records,
            ),
            ("restore_bytes", "Bytes of the records it has read", progress.size_bytes),
            ("restore_seconds_left", "Estimate of when it has read the rest", left_s),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, what, value)
