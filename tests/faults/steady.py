"""Load in parts, each counted before the next: for drills that look at one kill at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from agents.topics import LOG_EVENTS
from tests.faults.load import START_MS, CommittedCount
from tests.faults.reference import DrillReference
from tests.faults.verify import await_windows, check_ledger
from tests.system.harness import (
    WINDOW_MS,
    Cluster,
    Feeder,
    events,
    wait_for,
)

PART = 1_500
RATE = 100
"""Events a second of event time: four parts cross the end of a minute, and none can be late."""


def parts(count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    start_ms = START_MS // WINDOW_MS * WINDOW_MS + 10_000
    made = events(seed, PART * count, keys=20, start_ms=start_ms, rate=RATE)
    return iter(lambda: list(itertools.islice(made, PART)), [])


class Steady:
    """Feeds part by part and waits until each is counted."""

    def __init__(self, cluster: Cluster) -> None:
        self.reference = DrillReference()
        self._cluster = cluster
        self._feeder = Feeder(cluster)
        self._counter = CommittedCount(cluster)
        self._fed = 0

    def feed(self, part: list[dict[str, Any]], topic: str = LOG_EVENTS) -> None:
        self.expect(part)
        self._feeder.send(part, topic=topic)
        self._feeder.flush()

    def expect(self, part: list[dict[str, Any]]) -> None:
        """Count on events that are fed in another way."""
        for event in part:
            self.reference.add(event)
        self._fed += len(part)

    def counted(self) -> None:
        wait_for("all is counted", lambda: self._counter.poll() >= self._fed or None)
        await_windows(self._cluster, self._fed)

    def exact(self) -> None:
        """All state equals the reference, and the ledger balances. No worker runs any more."""
        self.reference.check(self._cluster)
        check_ledger(self._cluster)

    def close(self) -> None:
        self._counter.close()
