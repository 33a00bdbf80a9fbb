"""Measures the worker that ships: a backlog in ``log-events`` until it is in committed windows."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import confluent_kafka as ck

from agents.topics import LOG_EVENTS, SESSION_PARTIALS, WINDOW_CHANGELOG, WINDOW_PARTIALS
from app.engine.changelog import parse_record_key
from app.settings import CONFIG_DIR
from benchmarks.broker import BenchBroker, Offsets, reached
from benchmarks.configs import one_window
from benchmarks.load import Backlog, Load, Row
from benchmarks.process import Usage, peak_rss_mb, usage
from benchmarks.results import EXACTLY_ONCE, Result, VoidError
from tables.windows.keys import parse_row_key
from tables.windows.spec import load_windows
from tests.system.harness import Cluster, Worker

PARTITIONS = 4
TIMEOUT_S = 600.0
POLL_S = 0.05
QUIET_S = 2.0
"""A worker that has just become ready is left alone so long, then measured."""


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
        (ended,) = drained(broker, cluster, [worker], ends, slack=int(variant == EXACTLY_ONCE))
        broker_cpu_s = usage(broker.pid).cpu_s - broker_began.cpu_s
        rss_mb = peak_rss_mb(worker.process.pid)
        check_exact(f"{variant} with {load.keys:,} keys", cluster, load)
    finally:
        worker.stop()
    cpu_s = ended.cpu_s - began.cpu_s
    return Result(
        variant, keys, events, ended.at - began.at, cpu_s, events / cpu_s, rss_mb, broker_cpu_s
    )


def drained(
    broker: BenchBroker, cluster: Cluster, workers: Sequence[Worker], ends: Offsets, *, slack: int
) -> list[Usage]:
    """Usage of each worker when every hop has committed everything.

    ``slack``: offsets that transaction markers may take at the end of a partition.
    """
    second = [cluster.topic(name) for name in (WINDOW_PARTIALS, SESSION_PARTIALS)]
    topics = (cluster.topic(LOG_EVENTS), *second)
    partials: list[Offsets] | None = None
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for worker in workers:
            if worker.process.poll() is not None:
                raise VoidError(f"the worker ended:\n{worker.tail()}")
        now = [usage(worker.process.pid) for worker in workers]
        source, *merged = broker.committed(f"{cluster.namespace}.headrace", topics, PARTITIONS)
        if reached(source, ends):
            # Partials commit with the offsets they come from: all of them are written now.
            partials = partials or [broker.ends(topic, PARTITIONS) for topic in second]
            done = zip(merged, partials, strict=True)
            if all(reached(mine, its, slack=slack) for mine, its in done):
                return now
        time.sleep(POLL_S)
    tails = "\n".join(worker.tail() for worker in workers)
    raise VoidError(f"the backlog was not committed in {TIMEOUT_S:.0f} s:\n{tails}")


def check_exact(what: str, cluster: Cluster, load: Load) -> None:
    """Raise :class:`VoidError` unless the windows of one-window hold the load."""
    found = _counts(cluster)
    if found != load.rows:
        wrong = sum((found - load.rows).values()), sum((load.rows - found).values())
        raise VoidError(
            f"{what} is not exact: of {load.events:,} events "
            f"{wrong[1]:,} are missing and {wrong[0]:,} are too many"
        )


def _counts(cluster: Cluster) -> Counter[Row]:
    """Events by row, as the changelog tells; read without keeping what it told before."""
    spec = load_windows(CONFIG_DIR / "windows.yaml")[0]
    table, topic = spec.table(), cluster.topic(WINDOW_CHANGELOG)
    found: Counter[Row] = Counter()
    consumer = ck.Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": f"{cluster.namespace}-exact",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([ck.TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    left, deadline = set(range(PARTITIONS)), time.monotonic() + TIMEOUT_S
    while left and time.monotonic() < deadline:
        for message in consumer.consume(5_000, 0.1):
            if message.error() is not None:
                left.discard(message.partition())
                continue
            parsed = parse_record_key(message.key() or b"")
            if parsed is None or parsed[0] != table.identity:
                continue
            row, value = parse_row_key(parsed[1]), message.value()
            found[row] = 0 if value is None else table.aggregate.decode(value).count
    consumer.close()
    if left:
        raise VoidError(f"{topic} was not read to its end in {TIMEOUT_S:.0f} s")
    return +found
