"""A47.6, A47.7: how quickly trends answer at half of what two workers can take, and from where."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from random import Random

import aiohttp
import click

from agents.topics import LOG_EVENTS
from benchmarks.broker import BenchBroker, bench_broker, reached
from benchmarks.engine_run import PARTITIONS, new_cluster
from benchmarks.load import Backlog, Load, templates
from benchmarks.process import machine
from benchmarks.queries import Taken, ask, percentile
from benchmarks.results import VoidError, today
from benchmarks.timed import MissedError
from benchmarks.traffic import KEYS, SEED, traffic
from tests.system.harness import Cluster, Worker, wait_for

QUERIES_PER_S = 100
SECONDS = 30
WARM_UP_S = 10
SERVICES_EACH = 3
"""Services asked of each worker."""
LOCAL_MS_MAX = 10.0
REMOTE_MS_MAX = 50.0
HITS_MIN = 0.9
LOAD_SHARE = 0.5
CAPACITY_EVENTS = 600_000
CAPACITY_S_MAX = 300.0
SETTLED_S = 5.0


def capacity(broker: BenchBroker, cluster: Cluster) -> float:
    """Events per second that the cluster's workers take from a backlog."""
    topic, load = cluster.topic(LOG_EVENTS), Load(KEYS, CAPACITY_EVENTS)
    backlog = Backlog(broker.bootstrap, topic, gated=True)
    backlog.fill(load)
    ends = broker.ends(topic, PARTITIONS)
    backlog.release()
    began = time.monotonic()
    while time.monotonic() - began < CAPACITY_S_MAX:
        (done,) = broker.committed(f"{cluster.namespace}.headrace", (topic,), PARTITIONS)
        if reached(done, ends):
            return CAPACITY_EVENTS / (time.monotonic() - began)
        time.sleep(0.05)
    raise VoidError(f"the backlog was not read in {CAPACITY_S_MAX:.0f} s")


def _services(asked: Worker, name: str) -> list[str]:
    """As many services that ``asked`` owns as of the other worker."""
    mine: list[str] = []
    others: list[str] = []
    for service in sorted({shape.key.decode() for shape in templates(SEED)}):
        status, answer = asked.get(f"/trends/{service}")
        if status != 200:
            raise VoidError(f"{service}: {status} {answer}")
        (mine if answer["worker"] == name else others).append(service)
    if min(len(mine), len(others)) < SERVICES_EACH:
        raise VoidError(f"the workers do not own {SERVICES_EACH} services each")
    return mine[:SERVICES_EACH] + others[:SERVICES_EACH]


async def _queries(port: int, name: str, services: Sequence[str], seconds: int) -> Taken:
    """Queries to one worker, evenly spaced."""
    taken, draw = Taken(), Random(3)  # noqa: S311 - load
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(QUERIES_PER_S * seconds):
            wait = began + number / QUERIES_PER_S - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            url = f"http://127.0.0.1:{port}/trends/{draw.choice(services)}"
            group.create_task(ask(session, url, name, taken))
    return taken


def _cache(worker: Worker) -> dict[str, float]:
    """Trend queries answered so far, by whether the cache did."""
    text = worker.get("/metrics")[1]
    found = re.findall(r'^trend_cache_total\{result="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {"hit": 0.0, "miss": 0.0} | {result: float(number) for result, number in found}


def bench_a47_6_a47_7_trends_under_half_load(broker: BenchBroker, seconds: int) -> str:
    """100 queries/s to one of two workers at half of their capacity; what came of it, as text."""
    cluster = new_cluster(broker)
    workers = [cluster.worker(HEADRACE_DEMO="0", HEADRACE_COLLECT="0") for _ in range(2)]
    try:
        for worker in workers:
            worker.ready()
        most = capacity(broker, cluster)
        time.sleep(SETTLED_S)
        rate = int(most * LOAD_SHARE)
        with traffic(broker.bootstrap, cluster.topic(LOG_EVENTS), rate):
            time.sleep(WARM_UP_S)
            name = wait_for("who answers", lambda: workers[0].get("/ready")[1].get("worker"))
            services = _services(workers[0], name)
            before = _cache(workers[0])
            taken = asyncio.run(_queries(workers[0].port, name, services, seconds))
            after = _cache(workers[0])
    finally:
        for worker in workers:
            worker.stop()
    hits, misses = (after[result] - before[result] for result in ("hit", "miss"))
    return _report(taken, hits / max(1.0, hits + misses), most, rate)


def _report(taken: Taken, hits: float, most: float, rate: int) -> str:
    lines = [
        f"{machine()}, {today()}",
        f"{QUERIES_PER_S} queries/s of {2 * SERVICES_EACH} services through {rate:,} events/s,"
        f" half of the {most:,.0f} that two workers took:",
    ]
    missed = []
    for name, values, most_ms in (
        ("local", taken.local, LOCAL_MS_MAX),
        ("remote", taken.remote, REMOTE_MS_MAX),
    ):
        p99 = percentile(values, 0.99)
        lines.append(
            f"  {name}: p50 {percentile(values, 0.5):.1f} ms, p99 {p99:.1f} ms of {len(values)} "
            f"(p99 at most {most_ms:g} ms)"
        )
        if not p99 <= most_ms:
            missed.append(name)
    lines.append(f"  from the cache: {hits:.1%} (at least {HITS_MIN:.0%}); failed: {taken.failed}")
    if hits < HITS_MIN:
        missed.append("cache")
    text = "\n".join(lines)
    if missed or taken.failed:
        raise MissedError(f"{text}\nmissed: {', '.join(missed) or 'queries failed'}")
    return text


@click.command()
@click.option("--seconds", type=click.IntRange(5, 3_600), default=SECONDS, help="Of queries.")
def trends(seconds: int) -> None:
    """A47.6, A47.7: trends at half of capacity: p99 local 10 ms, remote 50 ms; 90 % cached."""
    try:
        with bench_broker() as broker:
            click.echo(bench_a47_6_a47_7_trends_under_half_load(broker, seconds))
    except (MissedError, VoidError) as error:
        sys.exit(str(error))
