"""Measures the worker that ships: a backlog in ``log-events`` until it is in committed windows."""

from __future__ import annotations

import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agents.topics import LOG_EVENTS, SESSION_PARTIALS, WINDOW_PARTIALS
from benchmarks.broker import BenchBroker, Offsets, reached
from benchmarks.configs import one_window
from benchmarks.load import Backlog, Load
from benchmarks.process import Usage, peak_rss_mb, usage
from benchmarks.results import EXACTLY_ONCE, Result, VoidError
from tests.system.harness import Cluster, Worker, committed_windows

PARTITIONS = 4
TIMEOUT_S = 180.0
POLL_S = 0.05
QUIET_S = 2.0
"""A worker that has just become ready is left alone so long, then measured."""


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def new_cluster(broker: BenchBroker) -> Cluster:
    """A namespace of its own, with a state folder of its own."""
    namespace = f"bench-{uuid.uuid4().hex[:8]}"
    return Cluster(broker.bootstrap, namespace, broker.folder / namespace, PARTITIONS)


def measure_engine(
    broker: BenchBroker,
    variant: str,
    keys: int,
    events: int,
    config: Callable[[Path], Path] = one_window,
) -> Result:
    """Run one engine variant. Raises :class:`VoidError` when its windows are not exact."""
    cluster = new_cluster(broker)
    guarantee = variant.removeprefix("engine ")
    worker = cluster.worker(
        free_port(),
        HEADRACE_GUARANTEE=guarantee,
        HEADRACE_COLLECT="0",
        HEADRACE_DEMO="0",
        HEADRACE_CONFIG=str(config(cluster.home)),
    )
    try:
        worker.ready()
        load = Load(keys, events)
        backlog = Backlog(broker.bootstrap, cluster.topic(LOG_EVENTS), gated=True)
        backlog.fill(load)
        ends = broker.ends(cluster.topic(LOG_EVENTS), PARTITIONS)
        time.sleep(QUIET_S)
        broker_began, began = usage(broker.pid), usage(worker.process.pid)
        backlog.release()
        ended = _drained(broker, cluster, worker, ends, marker=variant == EXACTLY_ONCE)
        broker_cpu_s = usage(broker.pid).cpu_s - broker_began.cpu_s
        rss_mb = peak_rss_mb(worker.process.pid)
        _exact(variant, cluster, load)
    finally:
        worker.stop()
    cpu_s = ended.cpu_s - began.cpu_s
    return Result(
        variant, keys, events, ended.at - began.at, cpu_s, events / cpu_s, rss_mb, broker_cpu_s
    )


def _drained(
    broker: BenchBroker, cluster: Cluster, worker: Worker, ends: Offsets, *, marker: bool
) -> Usage:
    """Usage when every hop has committed everything. ``marker``: transactions end in one."""
    second = [cluster.topic(name) for name in (WINDOW_PARTIALS, SESSION_PARTIALS)]
    topics = (cluster.topic(LOG_EVENTS), *second)
    partials: list[Offsets] | None = None
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if worker.process.poll() is not None:
            raise VoidError(f"the worker ended:\n{worker.tail()}")
        now = usage(worker.process.pid)
        source, *merged = broker.committed(f"{cluster.namespace}.headrace", topics, PARTITIONS)
        if reached(source, ends):
            # Partials commit with the offsets they come from: all of them are written now.
            partials = partials or [broker.ends(topic, PARTITIONS) for topic in second]
            done = zip(merged, partials, strict=True)
            if all(reached(mine, its, slack=int(marker)) for mine, its in done):
                return now
        time.sleep(POLL_S)
    raise VoidError(f"the backlog was not committed in {TIMEOUT_S:.0f} s:\n{worker.tail()}")


def _exact(variant: str, cluster: Cluster, load: Load) -> None:
    found = Counter({row: stats.count for row, stats in committed_windows(cluster).items()})
    if found != load.rows:
        wrong = sum((found - load.rows).values()), sum((load.rows - found).values())
        raise VoidError(
            f"{variant} with {load.keys} keys is not exact: of {load.events:,} events "
            f"{wrong[1]:,} are missing and {wrong[0]:,} are too many"
        )
