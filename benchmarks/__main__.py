"""``python -m benchmarks``: events per CPU second, against plain Faust in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from benchmarks.broker import BenchBroker, bench_broker
from benchmarks.configs import ONE_WINDOW, SHIPPED, five_windows_and_sessions
from benchmarks.engine_run import measure_engine
from benchmarks.failover import failover
from benchmarks.history import bench_history
from benchmarks.latency import latency
from benchmarks.live import live
from benchmarks.overload import backlog, overload
from benchmarks.process import machine
from benchmarks.queries import bench_queries
from benchmarks.recovery import recovery
from benchmarks.results import (
    EXACTLY_ONCE,
    PLAIN,
    ROCKSDB,
    VARIANTS,
    Result,
    VoidError,
    check_baseline,
    keep,
    show,
    today,
)
from benchmarks.sessions import bench_a48_8_active_lookup
from benchmarks.soak import soak
from benchmarks.stock_run import measure_stock
from benchmarks.timed import MissedError, bench_a39_1_posted_event_on_topic, bench_ship
from benchmarks.trends import trends
from benchmarks.workers import workers

KEYS = (50, 5_000, 500_000)
ALL_WINDOWS_PER_CPU_S = 60_000
EVENTS = {PLAIN: 100_000, ROCKSDB: 40_000}
ENGINE_EVENTS = 1_800_000
"""Enough that each variant is measured over at least 5 s of CPU."""


@click.group(invoke_without_command=True)
@click.option("--only", type=click.Choice(VARIANTS), multiple=True, help="Measure these only.")
@click.option("--keys", type=click.IntRange(1, 1_000_000), multiple=True, help="Distinct keys.")
@click.option("--events", type=click.IntRange(1_000), help="Events of each variant.")
@click.pass_context
def main(
    context: click.Context, only: tuple[str, ...], keys: tuple[int, ...], events: int | None
) -> None:
    """Measure what a worker does with a CPU second; writes benchmarks/results/latest.json."""
    if context.invoked_subcommand is not None:
        return
    results: list[Result] = []
    void: str | None = None
    with bench_broker() as broker:
        try:
            for count in keys or KEYS:
                for variant in only or VARIANTS:
                    click.echo(f"{variant}, {count:,} keys ...", err=True)
                    results.append(_measure(broker, variant, count, events))
                check_baseline(results)
        except VoidError as error:
            void = str(error)
    show(results, machine(), today())
    click.echo(f"written to {keep(results, machine(), today(), void)}", err=True)
    if void is not None:
        sys.exit(f"void: {void}")


def _measure(broker: BenchBroker, variant: str, keys: int, events: int | None) -> Result:
    if variant in EVENTS:
        return measure_stock(broker, variant, keys, events or EVENTS[variant])
    return measure_engine(broker, variant, keys, events or ENGINE_EVENTS)


@main.command()
def ship() -> None:
    """Ship a 10 000-line access log while demo traffic runs: under 3 s, exact."""
    _check(bench_ship)


@main.command()
def ingest() -> None:
    """A39.1: a posted event is on its topic within 1 s."""
    _check(bench_a39_1_posted_event_on_topic)


@main.command()
@click.option(
    "--config",
    type=click.Choice((SHIPPED, ONE_WINDOW)),
    default=SHIPPED,
    help="All that ships, or one tumbling window.",
)
def queries(config: str) -> None:
    """Point queries under ingest, near and far, and a day of windows of one key."""
    _check(lambda broker: bench_queries(broker, config))


@main.command()
@click.option("--keys", type=click.IntRange(1, 1_000_000), default=50, help="Distinct endpoints.")
@click.option("--events", type=click.IntRange(1_000), default=600_000, help="Events.")
def windows(keys: int, events: int) -> None:
    """Five windows and two kinds of sessions on one topic, exactly once: 60 000 a CPU second."""
    with bench_broker() as broker:
        result = measure_engine(broker, EXACTLY_ONCE, keys, events, five_windows_and_sessions)
    show([result], machine(), today())
    if result.events_per_cpu_s < ALL_WINDOWS_PER_CPU_S:
        sys.exit(f"missed: at least {ALL_WINDOWS_PER_CPU_S:,} events per CPU second")


main.add_command(latency)
main.add_command(live)
main.add_command(trends)
main.add_command(workers)
main.add_command(soak)


@main.command()
def sessions() -> None:
    """A48.8: a million open sessions in one worker, its memory, and active lookups."""
    _check(bench_a48_8_active_lookup)


main.add_command(failover)
main.add_command(recovery)
main.add_command(bench_history)
main.add_command(backlog)
main.add_command(overload)


def _check(bench: Callable[[BenchBroker], str]) -> None:
    with bench_broker() as broker:
        try:
            click.echo(bench(broker))
        except MissedError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
