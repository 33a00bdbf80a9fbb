"""Whether a worker's memory stays flat: constant traffic for minutes, its size each 5 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, linear_regression
from typing import Any

import click
import psutil
from rich.console import Console

from agents.topics import LOG_EVENTS
from app.settings import CONFIG_DIR
from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.configs import one_window
from benchmarks.engine_run import PARTITIONS, new_cluster
from benchmarks.process import machine, usage
from benchmarks.results import VoidError, today, write
from benchmarks.traffic import RATE, traffic
from tests.system.harness import Worker, committed_windows, total, wait_for

SETTLED_S = 120.0
"""Caches and write buffers fill until then."""
SAMPLE_S = 5.0
SLOPE_MIB_MAX = 2.0
"""MiB a minute, of a straight line through what comes after."""
SPREAD_MAX = 0.10
"""Between the least and the most of it, as a part of its mean."""
LAG_S_MAX = 5.0
"""Seconds of traffic a worker may be behind; beyond, its memory is a backlog's."""
DRAINED_S_MAX = 120.0
MIB = 1 << 20
BAR = 60
LINES_MAX = 60
SHIPPED, ONE_WINDOW = "shipped", "one-window"


@dataclass(frozen=True, slots=True)
class Sample:
    """``at_s``: seconds since the traffic began; ``cores``: since the sample before."""

    at_s: float
    rss_mib: float
    lag: int
    cores: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the samples after :data:`SETTLED_S`."""

    samples: int
    first_mib: float
    last_mib: float
    mean_mib: float
    spread: float
    slope_mib_per_min: float

    @property
    def flat(self) -> bool:
        """Whether memory neither grows nor swings."""
        return self.slope_mib_per_min <= SLOPE_MIB_MAX and self.spread <= SPREAD_MAX

    def __str__(self) -> str:
        return (
            f"after minute {SETTLED_S / 60:.0f}: {self.first_mib:.0f} MiB at first, "
            f"{self.last_mib:.0f} MiB at last; {self.slope_mib_per_min:+.2f} MiB a minute "
            f"(allowed {SLOPE_MIB_MAX:.0f}), least to most {self.spread:.1%} of the mean "
            f"(allowed {SPREAD_MAX:.0%}), {self.samples} samples"
        )


def verdict(samples: Sequence[Sample]) -> Verdict:
    """Slope and spread of what comes after the caches are full."""
    settled = [each for each in samples if each.at_s >= SETTLED_S]
    sizes = [each.rss_mib for each in settled]
    slope, _ = linear_regression([each.at_s / 60 for each in settled], sizes)
    mean = fmean(sizes)
    return Verdict(len(sizes), sizes[0], sizes[-1], mean, (max(sizes) - min(sizes)) / mean, slope)


def run(broker: BenchBroker, minutes: float, rate: int, config: str) -> list[Sample]:
    """Sample one worker under traffic. Raises :class:`VoidError` when it counts wrongly."""
    cluster = new_cluster(broker)
    folder = one_window(cluster.home) if config == ONE_WINDOW else CONFIG_DIR
    worker = cluster.worker(HEADRACE_DEMO="0", HEADRACE_COLLECT="0", HEADRACE_CONFIG=str(folder))
    topic = cluster.topic(LOG_EVENTS)
    try:
        worker.ready()
        with traffic(broker.bootstrap, topic, rate):
            samples = _sampled(worker, minutes * 60, rate)
        sent = sum(broker.ends(topic, PARTITIONS).values())
        wait_for("the rest is read", lambda: _lag(worker) == 0 or None, DRAINED_S_MAX)
        wait_for(
            f"all {sent:,} events are in windows",
            lambda: total(committed_windows(cluster)) == sent or None,
            DRAINED_S_MAX,
        )
    finally:
        worker.stop()
    click.echo(f"exact: {sent:,} events sent and counted", err=True)
    return samples


def _sampled(worker: Worker, seconds: float, rate: int) -> list[Sample]:
    process = psutil.Process(worker.process.pid)
    began = time.monotonic()
    before, samples = usage(process.pid), list[Sample]()
    while (at_s := time.monotonic() - began) < seconds:
        time.sleep(min(SAMPLE_S, seconds - at_s))
        now = usage(process.pid)
        cores = (now.cpu_s - before.cpu_s) / (now.at - before.at)
        lag = _lag(worker)
        rss_mib = process.memory_info().rss / MIB
        samples.append(Sample(now.at - began, rss_mib, -1 if lag is None else lag, cores))
        before = now
        if samples[-1].at_s >= SETTLED_S and samples[-1].lag > LAG_S_MAX * rate:
            raise VoidError(
                f"{samples[-1].lag:,} events behind after {samples[-1].at_s:.0f} s at {rate:,} "
                f"events/s, with {fmean(each.cores for each in samples):.2f} cores for the worker: "
                "its memory is that of a backlog"
            )
    return samples


def _lag(worker: Worker) -> int | None:
    """Events not yet processed; None while not known."""
    status, answer = worker.get("/api/v1/consumers")
    rows: list[dict[str, Any]] = answer["rows"] if status == 200 else []
    lags = [row["lag"] for row in rows if row["topic"] == LOG_EVENTS]
    return sum(lags) if lags and None not in lags else None


def show(samples: Sequence[Sample], title: str) -> None:
    """Print a chart: a line for a sample, or for several when there are many."""
    console, most = Console(width=110), max(each.rss_mib for each in samples)
    console.print(f"[bold]{title}[/bold]\n{machine()}, {today()}", highlight=False)
    step = -(-len(samples) // LINES_MAX)
    for first in range(0, len(samples), step):
        group = samples[first : first + step]
        size = max(each.rss_mib for each in group)
        bar = "█" * round(BAR * size / most)
        lag, cores = max(each.lag for each in group), fmean(each.cores for each in group)
        console.print(
            f"{group[-1].at_s:5.0f} s {size:6.0f} MiB {bar:<{BAR}} {cores:.2f} cores, lag {lag:,}",
            highlight=False,
        )


@click.command()
@click.option("--minutes", type=click.FloatRange(2.5, 1_440), default=10.0)
@click.option("--rate", type=click.IntRange(100, 200_000), default=RATE, help="Events a second.")
@click.option(
    "--config",
    type=click.Choice((SHIPPED, ONE_WINDOW)),
    default=SHIPPED,
    help="All that ships, or one tumbling window.",
)
def soak(minutes: float, rate: int, config: str) -> None:
    """A worker's memory under constant traffic; writes benchmarks/results/soak.json."""
    try:
        with bench_broker() as broker:
            samples = run(broker, minutes, rate, config)
    except VoidError as error:
        sys.exit(str(error))
    judged = verdict(samples)
    show(samples, f"Memory of a worker at {rate:,} events/s, {config}")
    path = write("soak", samples, rate=rate, config=config, verdict=asdict(judged))
    click.echo(f"written to {path}", err=True)
    if not judged.flat:
        sys.exit(f"missed: {judged}")
    click.echo(f"flat: {judged}")
