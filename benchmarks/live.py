"""A44.8: whether pages of two workers are told each second, under load, and the same."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import click

from agents.topics import LOG_EVENTS
from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.engine_run import new_cluster
from benchmarks.process import machine
from benchmarks.queries import percentile
from benchmarks.results import VoidError, today
from benchmarks.timed import MissedError
from benchmarks.traffic import RATE, traffic

SECONDS = 60
WARM_UP_S = 10
PERIOD_S, WITHIN_S = 1.0, 0.2
APART_MAX = 0.02
"""Part by which what two pages have been told of the same time may differ: they sample apart."""
SILENT_S = 10.0


@dataclass(slots=True)
class Page:
    """What one page was told: when each message came (monotonic s), and its events per second."""

    worker: str = ""
    came: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    partial: int = 0

    def take(self, message: dict[str, Any]) -> None:
        """Note a message that has just come."""
        self.came.append(time.monotonic())
        self.worker = message["worker"]
        data = message.get("data")
        self.rates.append(data["rate"] if data else 0.0)
        self.partial += message["partial"] or message["workers"] != 2

    def intervals(self) -> list[float]:
        """Seconds between messages."""
        return [b - a for a, b in zip(self.came, self.came[1:], strict=False)]

    def mean_rate(self) -> float:
        """Events per second over all messages."""
        return sum(self.rates) / len(self.rates)


async def _watch(port: int, seconds: int) -> Page:
    page = Page()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{port}/ws/metrics") as socket,
    ):
        await socket.receive_json(timeout=SILENT_S)  # the greeting comes at once
        for _ in range(seconds):
            page.take(await socket.receive_json(timeout=SILENT_S))
    return page


async def _both(ports: list[int], seconds: int) -> list[Page]:
    return await asyncio.gather(*(_watch(port, seconds) for port in ports))


def bench_a44_8_pages_are_pushed_to_each_second(
    broker: BenchBroker, rate: int, seconds: int
) -> str:
    """Two pages on two workers, through constant traffic. What they were told, as text."""
    cluster = new_cluster(broker)
    workers = [cluster.worker(HEADRACE_DEMO="0", HEADRACE_COLLECT="0") for _ in range(2)]
    try:
        for worker in workers:
            worker.ready()
        with traffic(broker.bootstrap, cluster.topic(LOG_EVENTS), rate):
            time.sleep(WARM_UP_S)
            pages = asyncio.run(_both([worker.port for worker in workers], seconds))
    finally:
        for worker in workers:
            worker.stop()
    return _report(pages, rate)


def _report(pages: list[Page], rate: int) -> str:
    lines = [f"{machine()}, {today()}", f"two pages on two workers, {rate:,} events/s:"]
    missed = []
    for page in pages:
        apart = page.intervals()
        outside = sum(abs(each - PERIOD_S) > WITHIN_S for each in apart)
        lines.append(
            f"  {page.worker}: {len(apart)} intervals, {min(apart):.3f} to {max(apart):.3f} s, "
            f"p50 {percentile(apart, 0.5):.3f} s, {outside} beyond {PERIOD_S:g} s "
            f"+- {WITHIN_S:g} s; mean rate {page.mean_rate():,.0f}/s; "
            f"{page.partial} without the other worker"
        )
        if outside or page.partial:
            missed.append(page.worker)
    one, other = (page.mean_rate() for page in pages)
    lines.append(f"  their mean rates differ by {abs(one - other) / max(one, other, 1):.2%}")
    if abs(one - other) > APART_MAX * max(one, other):
        missed.append("the rates")
    text = "\n".join(lines)
    if missed:
        raise MissedError(f"{text}\nmissed: {', '.join(missed)}")
    return text


@click.command()
@click.option("--rate", type=click.IntRange(100, 200_000), default=RATE, help="Events a second.")
@click.option("--seconds", type=click.IntRange(5, 3_600), default=SECONDS, help="Messages.")
def live(rate: int, seconds: int) -> None:
    """A44.8: pages of two workers are pushed to each 1 s +- 0.2 s, and told the same."""
    try:
        with bench_broker() as broker:
            click.echo(bench_a44_8_pages_are_pushed_to_each_second(broker, rate, seconds))
    except (MissedError, VoidError) as error:
        sys.exit(str(error))
