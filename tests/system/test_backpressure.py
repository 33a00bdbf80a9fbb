"""More than a worker can take: memory stays bounded, partitions pause, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import psutil
import pytest

from agents.topics import LOG_EVENTS
from app.engine.pacing import SIZE_MIN, SIZE_START
from tests.system.harness import (
    Cluster,
    Feeder,
    Reference,
    Worker,
    committed_windows,
    events,
    total,
    wait_for,
)
from tests.system.throttle import ENTRY, FOLDER, Throttle

pytestmark = pytest.mark.broker

START_MS = 1_790_000_000_000
FETCH_MEMORY = 8 << 20
GROWTH_MAX = 96 << 20
"""What a worker may take above what it has when idle: the bound of what is fetched, twice (it is
an estimate, and the allocator keeps what was freed), the open epoch and the one in flight, what
RocksDB caches, and the auditor, which reads the same backlog."""
STOPPED, FREE = Throttle(stopped=True), Throttle()


class Throttled:
    """A worker with a throttle, and what it says of ``log-events``."""

    def __init__(self, cluster: Cluster, throttle: Throttle) -> None:
        self._folder = cluster.home / "throttle"
        throttle.set(self._folder)
        self.worker: Worker = cluster.worker(
            entry=ENTRY,
            **{FOLDER: str(self._folder), "HEADRACE_FETCH_MEMORY_BYTES": str(FETCH_MEMORY)},
        )
        self.worker.ready()
        self._idle_rss = self.rss()

    def set(self, throttle: Throttle) -> None:
        throttle.set(self._folder)

    def rss(self) -> int:
        rss: int = psutil.Process(self.worker.process.pid).memory_info().rss
        return rss

    def bounded(self) -> None:
        """What it has taken now is within the bound."""
        grown = self.rss() - self._idle_rss
        assert grown < GROWTH_MAX, f"{grown >> 20} MiB above idle"

    def rows(self) -> list[dict[str, Any]]:
        answer = self.worker.answer("/api/v1/consumers")
        return [row for row in answer["rows"] if row["topic"] == LOG_EVENTS]

    def lag(self) -> int | None:
        lags = [row["lag"] for row in self.rows()]
        return None if None in lags else sum(lags)

    def flows(self) -> bool | None:
        """Whether no partition is paused."""
        return not any(row["paused"] for row in self.rows()) or None

    def batch_sizes(self) -> list[int]:
        return [row["batch_size"] for row in self.rows()]

    def gauge(self, name: str) -> list[float]:
        """Values of a gauge over the partitions."""
        found = re.findall(
            rf'^{name}\{{.*topic="{LOG_EVENTS}"\}} (\S+)$',
            str(self.worker.get("/metrics")[1]),
            re.MULTILINE,
        )
        return [float(value) for value in found]


@pytest.fixture
def throttled(cluster: Cluster) -> Iterator[Callable[[Throttle], Throttled]]:
    started: list[Throttled] = []

    def start(throttle: Throttle) -> Throttled:
        started.append(Throttled(cluster, throttle))
        return started[-1]

    yield start
    for each in started:
        each.worker.stop()


def small_events() -> list[tuple[bytes, bytes]]:
    return [
        (event["service"].encode(), json.dumps(event).encode())
        for event in events(3, 64, keys=8, start_ms=START_MS, rate=1_000)
    ]


def test_a33_3_a_million_records_wait_for_a_stopped_handler_outside_of_memory(
    cluster: Cluster, throttled: Callable[[Throttle], Throttled]
) -> None:
    backlog = 1_000_000
    worker = throttled(STOPPED)
    feeder = Feeder(cluster)
    for key, value in itertools.islice(itertools.cycle(small_events()), backlog):
        feeder.raw(key, value)
    feeder.flush()

    def look(reached: Callable[[], bool]) -> bool | None:
        """Take a look at the memory; whether it has come so far."""
        worker.bounded()
        return reached() or None

    wait_for("the lag is the backlog", lambda: look(lambda: worker.lag() == backlog))
    wait_for("the gauge says so", lambda: sum(worker.gauge("consumer_lag")) == backlog or None)
    # The end of a partition is known before so much of it is fetched that it pauses.
    wait_for("all are paused", lambda: all(row["paused"] for row in worker.rows()) or None)
    paused = [1.0] * cluster.partitions
    wait_for("the gauge of that", lambda: worker.gauge("consumer_paused") == paused or None)
    assert {row["position"] for row in worker.rows()} == {0}
    worker.bounded()

    worker.set(FREE)
    wait_for("the backlog is done", lambda: look(lambda: worker.lag() == 0), 600.0)
    worker.bounded()
    wait_for("none is paused", worker.flows)


def wordy(made: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Events whose text does not compress: what is fetched ahead holds few of them."""
    draw = Random(5)
    for event in made:
        yield event | {"message": f"{draw.getrandbits(800):0200x}"}


def test_a44_9_twice_the_capacity_pauses_and_catches_up_exactly(
    cluster: Cluster, throttled: Callable[[Throttle], Throttled]
) -> None:
    # A44.9 speaks of 60 s: `python -m benchmarks overload` does as many. Six are enough to pause.
    capacity, seconds = 4_000, 6
    worker = throttled(Throttle(record_s=1 / capacity))
    feeder, reference = Feeder(cluster), Reference()
    count = 2 * capacity * seconds
    made = wordy(events(9, count, keys=40, start_ms=START_MS, rate=1_000))
    seen: list[tuple[int, bool]] = []

    def look(until_s: float = 0.0) -> bool | None:
        """Take a look; whether it is so late."""
        worker.bounded()
        seen.append((worker.lag() or 0, any(row["paused"] for row in worker.rows())))
        return time.monotonic() >= until_s or None

    began = time.monotonic()
    for fed in range(capacity, count + 1, capacity):
        feeder.send(itertools.islice(made, capacity), reference)
        feeder.flush()
        due = began + fed / (2 * capacity)
        wait_for("half a second of load", partial(look, due))
    assert max(lag for lag, _ in seen) > capacity
    assert any(paused for _, paused in seen)

    wait_for("all is read", lambda: (look() and worker.lag() == 0) or None)
    wait_for("all is counted", lambda: total(committed_windows(cluster)) >= count or None)
    assert reference.differences(committed_windows(cluster)) == []
    wait_for("none is paused", worker.flows)


def test_a33_2_batches_shrink_while_the_handler_is_slow_and_grow_again(
    cluster: Cluster, throttled: Callable[[Throttle], Throttled]
) -> None:
    worker = throttled(Throttle(batch_s=0.2))
    assert worker.batch_sizes() == [SIZE_START] * cluster.partitions
    feeder = Feeder(cluster)
    (key, value), *_ = small_events()
    for _ in range(30_000):
        feeder.raw(key, value)
    feeder.flush()

    wait_for("smallest batches", lambda: min(worker.batch_sizes()) == SIZE_MIN or None)
    worker.set(FREE)
    # How far they grow is the machine's affair: a batch may take 50 ms at most.
    wait_for("larger batches", lambda: min(worker.batch_sizes()) >= 2 * SIZE_MIN or None)
