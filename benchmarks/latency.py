"""How long it takes an event to be in the window a query answers, under load, hop by hop.

Single events of their own key, among constant traffic from another process. Of each is noted
when the broker appended it (its timestamp), when a reader of committed records saw its
partial, and when a query answered with it. A query is asked once that reader has seen the
window's row committed, so asking takes next to nothing from the worker; what the reader takes
to see it counts as the worker's. Next to each goes a plain record through a topic of its
own, seen by the same reader: what producer, broker, reader and machine take without a worker.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

from agents.topics import LOG_EVENTS
from app.settings import CONFIG_DIR
from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.configs import ONE_WINDOW, SHIPPED, one_window
from benchmarks.engine_run import PARTITIONS, new_cluster
from benchmarks.probes import Probe, Reader, Sender
from benchmarks.process import machine, usage
from benchmarks.queries import percentile
from benchmarks.results import VoidError, today, write
from benchmarks.timed import MissedError
from benchmarks.traffic import producer, traffic
from tests.system.harness import Worker

RATES = (5_000, 20_000, 60_000)
JUDGED_RATE = 20_000
HOP_P99_MS_MAX = 75.0
QUERY_P99_MS_MAX = 200.0
RATE_SHARE_MIN = 0.95
"""Traffic below this share of its rate says nothing about that rate."""
SECONDS = 40
WARM_UP_S = 5.0
VISIBLE_S_MAX = 10.0
READY_S_MAX = 20.0


SPANS: dict[str, Callable[[Probe], float]] = {
    "hop 1: append to partial": lambda p: p.partial - p.appended,
    "hop 2: partial to query": lambda p: p.answered - p.partial,
    "append to row committed": lambda p: p.row - p.appended,
    "append to query": lambda p: p.answered - p.appended,
    "send to query": lambda p: p.answered - p.sent,
    "plain: append to read": lambda p: p.plain_seen - p.plain_appended,
    "plain: send to read": lambda p: p.plain_seen - p.sent,
}
HOPS = tuple(SPANS)[:2]
QUERY = "append to query"


@dataclass(frozen=True, slots=True)
class Span:
    """Milliseconds of one part of the way."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Latency:
    """One rate. ``rate``: events per second that came; cores are CPU seconds per second.

    ``load_1m``: the machine's load; above its cores, others take their share of the time.
    """

    config: str
    rate_wanted: int
    rate: float
    probes: int
    spans: dict[str, Span]
    worker_cores: float
    broker_cores: float
    load_1m: float


def measure(broker: BenchBroker, rate: int, seconds: int, config: str) -> Latency:
    """Probe one worker at one rate. Raises :class:`VoidError` when the traffic fell short."""
    cluster = new_cluster(broker)
    folder = one_window(cluster.home) if config == ONE_WINDOW else CONFIG_DIR
    worker = cluster.worker(HEADRACE_DEMO="0", HEADRACE_COLLECT="0", HEADRACE_CONFIG=str(folder))
    plain = broker.new_topic("plain", 1, message_timestamp_type="LogAppendTime")
    reader = Reader(cluster, folder, plain)
    threads = [
        threading.Thread(target=reader.run),
        threading.Thread(target=reader.ask, args=(worker.port,)),
    ]
    try:
        worker.ready()
        for thread in threads:
            thread.start()
        with traffic(broker.bootstrap, cluster.topic(LOG_EVENTS), rate):
            return _measured(broker, worker, reader, rate, seconds, config)
    finally:
        reader.stop.set()
        reader.committed.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()
        worker.stop()


def _measured(
    broker: BenchBroker, worker: Worker, reader: Reader, rate: int, seconds: int, config: str
) -> Latency:
    topic = reader.cluster.topic(LOG_EVENTS)
    time.sleep(WARM_UP_S)
    if not reader.ready.wait(READY_S_MAX):
        raise VoidError("the reader of committed records did not come to the ends of its topics")
    sender = Sender(producer(broker.bootstrap), topic, reader.plain, reader.probes)
    sent = sum(broker.ends(topic, PARTITIONS).values())
    began, broker_began = usage(worker.process.pid), usage(broker.pid)
    sender.run(seconds)
    ended, broker_ended = usage(worker.process.pid), usage(broker.pid)
    came = sum(broker.ends(topic, PARTITIONS).values()) - sent
    sender.producer.flush(VISIBLE_S_MAX)
    _await(reader.probes)
    taken_s = ended.at - began.at
    if came < RATE_SHARE_MIN * rate * taken_s:
        raise VoidError(f"only {came / taken_s:,.0f} of {rate:,} events/s came: a busy machine")
    return Latency(
        config,
        rate,
        came / taken_s,
        len(reader.probes),
        {name: _span([of(probe) for probe in reader.probes]) for name, of in SPANS.items()},
        (ended.cpu_s - began.cpu_s) / taken_s,
        (broker_ended.cpu_s - broker_began.cpu_s) / taken_s,
        os.getloadavg()[0],
    )


def _await(probes: list[Probe]) -> None:
    deadline = time.monotonic() + VISIBLE_S_MAX
    while not all(probe.complete for probe in probes):
        if time.monotonic() > deadline:
            missing = {
                name: sum(not getattr(probe, name) for probe in probes)
                for name in ("appended", "partial", "row", "answered", "plain_seen")
            }
            raise MissedError(
                f"{VISIBLE_S_MAX:.0f} s after the last of {len(probes)} events was sent, so many "
                f"had not been seen at each point of their way: {missing}"
            )
        time.sleep(0.05)


def _span(values: list[float]) -> Span:
    return Span(percentile(values, 0.5), percentile(values, 0.99), max(values))


def show(found: list[Latency]) -> None:
    """Print the table."""
    table = Table(title=f"Latency in ms, p50 / p99 / longest\n{machine()}, {today()}")
    table.add_column("")
    for each in found:
        table.add_column(f"{each.config}\n{each.rate_wanted:,} events/s", justify="right")
    for name in SPANS:
        spans = [each.spans[name] for each in found]
        table.add_row(name, *(f"{s.p50_ms:.0f} / {s.p99_ms:.0f} / {s.max_ms:.0f}" for s in spans))
    table.add_section()
    table.add_row("events/s that came", *(f"{each.rate:,.0f}" for each in found))
    table.add_row("probes", *(f"{each.probes:,}" for each in found))
    table.add_row("worker, cores", *(f"{each.worker_cores:.2f}" for each in found))
    table.add_row("broker, cores", *(f"{each.broker_cores:.2f}" for each in found))
    table.add_row("load of the machine", *(f"{each.load_1m:.1f}" for each in found))
    Console(width=130).print(table)


def missed(found: list[Latency]) -> list[str]:
    """Bounds that are not kept at the rate they are set for."""
    bounds = dict.fromkeys(HOPS, HOP_P99_MS_MAX) | {QUERY: QUERY_P99_MS_MAX}
    return [
        f"{name} at {each.rate_wanted:,} events/s, {each.config}: p99 "
        f"{each.spans[name].p99_ms:.0f} ms, allowed {most:.0f} ms"
        for each in found
        if each.rate_wanted == JUDGED_RATE
        for name, most in bounds.items()
        if not each.spans[name].p99_ms <= most
    ]


@click.command()
@click.option("--rate", type=click.IntRange(100, 200_000), multiple=True, help="Events a second.")
@click.option("--seconds", type=click.IntRange(5, 3_600), default=SECONDS, help="Of each rate.")
@click.option(
    "--config",
    type=click.Choice((ONE_WINDOW, SHIPPED)),
    default=ONE_WINDOW,
    help="One tumbling window, or all that ships.",
)
def latency(rate: tuple[int, ...], seconds: int, config: str) -> None:
    """Time from an event to the query that shows it; writes benchmarks/results/latency-*.json."""
    found: list[Latency] = []
    wrong: list[str] = []
    with bench_broker() as broker:
        for each in rate or RATES:
            click.echo(f"{each:,} events/s, {config} ...", err=True)
            try:
                found.append(measure(broker, each, seconds, config))
            except (MissedError, VoidError) as error:
                wrong.append(f"{each:,} events/s, {config}: {error}")
    if found:
        show(found)
    wrong += missed(found)
    click.echo(f"written to {write(f'latency-{config}', found, missed=wrong)}", err=True)
    if wrong:
        sys.exit("missed: " + "\nmissed: ".join(wrong))
