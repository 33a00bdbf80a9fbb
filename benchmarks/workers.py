"""One worker against two, on the same backlog: what the second adds, and what it costs.

On a machine whose cores workers and broker fill, a second worker can only take what the first
left: then the ratio says more of the machine than of the engine, and is not judged. What
is left to see is the CPU an event costs with two workers instead of one.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import click
import psutil
from rich.console import Console
from rich.table import Table

from agents.topics import LOG_EVENTS
from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.configs import one_window
from benchmarks.engine_run import (
    PARTITIONS,
    QUIET_S,
    check_exact,
    drained,
    new_cluster,
)
from benchmarks.load import Backlog, Load
from benchmarks.process import machine, usage
from benchmarks.results import VoidError, today, write
from benchmarks.timed import MissedError
from tests.system.harness import Cluster, Worker, wait_for

RATIO_MIN = 1.7
FREE_CORES_MIN = 0.3
"""Cores that must have been idle with two workers for the ratio to be theirs."""
EVENTS = 1_800_000
KEYS = 50
EXACT_S_MAX = 10.0
CASES = ((1, 0), (2, 0), (2, 1))
"""Workers, and standbys of each partition."""


@dataclass(frozen=True, slots=True)
class Workers:
    """One backlog worked off.

    ``*_cores``: CPU seconds per second, of all workers, of the broker, of everything else on
    the machine, and left idle. ``shares``: part of the workers' CPU that each of them took.
    """

    workers: int
    standbys: int
    keys: int
    events: int
    seconds: float
    events_per_s: float
    events_per_cpu_s: float
    worker_cores: float
    broker_cores: float
    other_cores: float
    free_cores: float
    shares: tuple[float, ...]


def measure(broker: BenchBroker, workers: int, standbys: int, keys: int, events: int) -> Workers:
    """Work off one backlog. Raises :class:`VoidError` when the windows are not exact."""
    cluster = new_cluster(broker)
    config = str(one_window(cluster.home))
    running = [_start(cluster, standbys, config) for _ in range(workers)]
    try:
        for worker in running:
            worker.ready()
        wait_for("every worker has its share", lambda: _shared(running) or None)
        load = Load(keys, events)
        backlog = Backlog(broker.bootstrap, cluster.topic(LOG_EVENTS), gated=True)
        # By number, so that each partition has as much as the next.
        backlog.write((b"%d" % n, value) for n, (_, value) in enumerate(load.generate()))
        ends = broker.ends(cluster.topic(LOG_EVENTS), PARTITIONS)
        time.sleep(QUIET_S)
        broker_began, idle_began = usage(broker.pid), _idle_s()
        began = [usage(worker.process.pid) for worker in running]
        backlog.release()
        # Transactions of each worker end in a marker.
        ended = drained(broker, cluster, running, ends, slack=workers)
        broker_cpu_s, idle_s = usage(broker.pid).cpu_s - broker_began.cpu_s, _idle_s() - idle_began
        _await_exact(f"{workers} workers, {standbys} standbys", cluster, load)
    finally:
        for worker in running:
            worker.stop()
    seconds = ended[0].at - began[0].at
    used = [after.cpu_s - before.cpu_s for before, after in zip(began, ended, strict=True)]
    cpu_s, cores = sum(used), psutil.cpu_count() or 1
    return Workers(
        workers,
        standbys,
        keys,
        events,
        seconds,
        events / seconds,
        events / cpu_s,
        cpu_s / seconds,
        broker_cpu_s / seconds,
        max(0.0, cores - (cpu_s + broker_cpu_s + idle_s) / seconds),
        idle_s / seconds,
        tuple(each / cpu_s for each in used),
    )


def _start(cluster: Cluster, standbys: int, config: str) -> Worker:
    return cluster.worker(
        HEADRACE_COLLECT="0",
        HEADRACE_DEMO="0",
        HEADRACE_STANDBY_REPLICAS=str(standbys),
        HEADRACE_CONFIG=config,
    )


def _shared(workers: Sequence[Worker]) -> bool:
    """Whether all partitions run, as many with each worker."""
    status, answer = workers[0].get("/api/v1/consumers")
    rows = answer["rows"] if status == 200 else []
    owned = Counter(
        row["worker"] for row in rows if row["topic"] == LOG_EVENTS and row["state"] == "running"
    )
    return sorted(owned.values()) == [PARTITIONS // len(workers)] * len(workers)


def _await_exact(what: str, cluster: Cluster, load: Load) -> None:
    """The slack for markers may leave the last epoch to come."""
    deadline = time.monotonic() + EXACT_S_MAX
    while True:
        try:
            return check_exact(what, cluster, load)
        except VoidError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def _idle_s() -> float:
    times = psutil.cpu_times()
    idle: float = times.idle + getattr(times, "iowait", 0.0)
    return idle


def conclusion(one: Workers, two: Workers) -> str:
    """What the two say, in a line. Raises :class:`MissedError` when cores were free and unused."""
    ratio = two.events_per_s / one.events_per_s
    said = (
        f"two workers: {ratio:.2f} x the events/s of one at "
        f"{one.events_per_cpu_s / two.events_per_cpu_s:.2f} x the CPU an event"
    )
    used = (
        f"workers {two.worker_cores:.2f}, broker {two.broker_cores:.2f}, others "
        f"{two.other_cores:.2f}, idle {two.free_cores:.2f} cores"
    )
    if ratio >= RATIO_MIN:
        return f"{said} ({used}): at least {RATIO_MIN} x, as wanted"
    if two.free_cores < FREE_CORES_MIN:
        return f"{said} ({used}): the machine was full, {RATIO_MIN} x is not judged"
    raise MissedError(f"missed: {said} ({used}): wanted {RATIO_MIN} x")


def show(found: Sequence[Workers]) -> None:
    """Print the table."""
    table = Table(title=f"One backlog, one worker or two\n{machine()}, {today()}")
    for name in (
        "workers", "standbys", "keys", "events", "seconds", "events/s", "x one", "events/CPU s",
        "workers cores", "broker cores", "others", "idle", "shares",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            str(each.workers),
            str(each.standbys),
            f"{each.keys:,}",
            f"{each.events:,}",
            f"{each.seconds:.1f}",
            f"{each.events_per_s:,.0f}",
            f"{each.events_per_s / found[0].events_per_s:.2f}",
            f"{each.events_per_cpu_s:,.0f}",
            f"{each.worker_cores:.2f}",
            f"{each.broker_cores:.2f}",
            f"{each.other_cores:.2f}",
            f"{each.free_cores:.2f}",
            " ".join(f"{share:.0%}" for share in each.shares),
        )
    Console(width=140).print(table)


@click.command()
@click.option("--keys", type=click.IntRange(1, 1_000_000), default=KEYS, help="Distinct keys.")
@click.option("--events", type=click.IntRange(1_000), default=EVENTS, help="Events.")
def workers(keys: int, events: int) -> None:
    """One worker against two on the same backlog; writes benchmarks/results/workers.json."""
    found: list[Workers] = []
    try:
        with bench_broker() as broker:
            for count, standbys in CASES:
                click.echo(f"{count} workers, {standbys} standbys ...", err=True)
                found.append(measure(broker, count, standbys, keys, events))
        show(found)
        said = conclusion(found[0], found[1])
    except (MissedError, VoidError) as error:
        sys.exit(str(error))
    finally:
        if found:
            click.echo(f"written to {write('workers', found)}", err=True)
    click.echo(said)
