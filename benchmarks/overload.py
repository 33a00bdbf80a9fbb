"""What a worker's memory does when more comes than it can take: a backlog, and a long overload.

``backlog``: events wait while the handler is stopped, then are worked off. ``overload``: events
come at twice the rate the handler takes them, for a while. Both say how much memory the worker
took above what it has when idle, and are void unless the windows are exact in the end.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import psutil

from agents.topics import LOG_EVENTS
from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.engine_run import new_cluster
from benchmarks.load import Backlog, Load
from benchmarks.results import VoidError
from tests.system.harness import Cluster, Worker, committed_windows, total, wait_for
from tests.system.throttle import ENTRY, FOLDER, Throttle

KEYS = 50
DRAINED_S_MAX = 600.0
LOOK_S = 0.2
FETCH_MEMORY = 64 << 20
GROWTH_MAX = 3 * FETCH_MEMORY
"""Of the bound of what is fetched: itself, as much again for what the allocator keeps of it,
and the open epoch with the block cache filling up."""
MIB = 1 << 20


@dataclass(slots=True)
class Seen:
    """What was seen of a worker: MiB above idle, records behind, looks at which it was paused."""

    idle_bytes: int
    growth_bytes: int = 0
    lag_max: int = 0
    looks: int = 0
    paused: int = 0


@dataclass(slots=True)
class Watched:
    """A throttled worker, looked at a few times a second."""

    cluster: Cluster
    throttle: Throttle
    worker: Worker = field(init=False)
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self.throttle.set(self._folder)
        self.worker = self.cluster.worker(
            entry=ENTRY,
            **{FOLDER: str(self._folder), "HEADRACE_FETCH_MEMORY_BYTES": str(FETCH_MEMORY)},
        )
        self.worker.ready()
        self.seen = Seen(self._rss())

    @property
    def _folder(self) -> Path:
        return self.cluster.home / "throttle"

    def _rss(self) -> int:
        rss: int = psutil.Process(self.worker.process.pid).memory_info().rss
        return rss

    def free(self) -> None:
        """Let the handler run."""
        Throttle().set(self._folder)

    def look(self) -> int | None:
        """Take note of memory, lag and pauses; the lag, if it is known."""
        seen = self.seen
        seen.growth_bytes = max(seen.growth_bytes, self._rss() - seen.idle_bytes)
        answer = self.worker.get("/api/v1/consumers")[1]
        rows = [row for row in answer["rows"] if row["topic"] == LOG_EVENTS]
        lags = [row["lag"] for row in rows]
        lag = None if None in lags else sum(lags)
        seen.lag_max = max(seen.lag_max, lag or 0)
        seen.looks += 1
        seen.paused += any(row["paused"] for row in rows)
        return lag

    def until(self, what: str, reached: Callable[[int | None], bool]) -> float:
        """Look until the lag is so; seconds it took."""
        began = time.monotonic()
        while not reached(self.look()):
            time.sleep(LOOK_S)
            if time.monotonic() - began > DRAINED_S_MAX:
                raise VoidError(f"{what}: not within {DRAINED_S_MAX:.0f} s\n{self.worker.tail()}")
        return time.monotonic() - began

    def judge(self, load: Load) -> str:
        """The figures; raises :class:`VoidError` when windows differ or memory grew too much."""
        wait_for(
            "all windows",
            lambda: total(committed_windows(self.cluster)) >= load.events or None,
        )
        found = Counter({row: st.count for row, st in committed_windows(self.cluster).items()})
        seen = self.seen
        if found != load.rows:
            raise VoidError(f"windows are not exact: {found.total():,} of {load.events:,} events")
        if seen.growth_bytes > GROWTH_MAX:
            raise VoidError(f"memory grew by {seen.growth_bytes / MIB:.0f} MiB")
        return (
            f"exact; memory {seen.idle_bytes / MIB:.0f} MiB idle, at most "
            f"{seen.growth_bytes / MIB:.0f} MiB more (bound of what is fetched: "
            f"{FETCH_MEMORY / MIB:.0f} MiB); lag at most {seen.lag_max:,}; "
            f"paused in {seen.paused} of {seen.looks} looks"
        )


def bench_backlog(broker: BenchBroker, events: int) -> str:
    """A backlog while the handler is stopped, then worked off."""
    watched = Watched(new_cluster(broker), Throttle(stopped=True))
    try:
        load = Load(KEYS, events)
        Backlog(broker.bootstrap, watched.cluster.topic(LOG_EVENTS), gated=False).fill(load)
        watched.until("the lag is the backlog", lambda lag: lag == events)
        stopped_mb = watched.seen.growth_bytes / MIB
        watched.free()
        seconds = watched.until("the backlog is done", lambda lag: lag == 0)
        return (
            f"backlog of {events:,} events: {stopped_mb:.0f} MiB more while stopped; "
            f"worked off in {seconds:.0f} s; {watched.judge(load)}"
        )
    finally:
        watched.worker.stop()


def bench_overload(broker: BenchBroker, capacity: int, seconds: int) -> str:
    """Twice the capacity of the handler for so many seconds, then the rest."""
    watched = Watched(new_cluster(broker), Throttle(record_s=1 / capacity))
    try:
        load = Load(KEYS, 2 * capacity * seconds)
        feed = Backlog(broker.bootstrap, watched.cluster.topic(LOG_EVENTS), gated=False)
        made, began = load.generate(), time.monotonic()
        for number in range(seconds):
            feed.write(itertools.islice(made, 2 * capacity))
            watched.until("a second", partial(_late, began + number + 1))
        fed_s = time.monotonic() - began
        drained_s = watched.until("the lag is gone", lambda lag: lag == 0)
        return (
            f"{load.events:,} events in {fed_s:.0f} s at {capacity:,}/s capacity, "
            f"the rest in {drained_s:.0f} s; {watched.judge(load)}"
        )
    finally:
        watched.worker.stop()


def _late(due_s: float, _lag: int | None) -> bool:
    return time.monotonic() >= due_s


def _run(bench: Callable[[BenchBroker], str]) -> None:
    with bench_broker() as broker:
        try:
            click.echo(bench(broker))
        except VoidError as error:
            sys.exit(str(error))


@click.command()
@click.option("--events", type=click.IntRange(1_000, 50_000_000), default=5_000_000)
def backlog(events: int) -> None:
    """A33.3: memory with a backlog and a stopped handler, then working it off."""
    _run(lambda broker: bench_backlog(broker, events))


@click.command()
@click.option("--capacity", type=click.IntRange(100, 100_000), default=10_000)
@click.option("--seconds", type=click.IntRange(1, 3_600), default=60)
def overload(capacity: int, seconds: int) -> None:
    """A44.9: memory, lag and pauses with twice the capacity of the handler coming in."""
    _run(lambda broker: bench_overload(broker, capacity, seconds))
