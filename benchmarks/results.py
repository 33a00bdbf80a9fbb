"""A measurement, and how a run of them is shown, judged and kept."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.process import machine

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parent / "results"
PLAIN = "faust plain"
ROCKSDB = "faust rocksdb table"
AT_LEAST_ONCE = "engine at_least_once"
EXACTLY_ONCE = "engine exactly_once"
VARIANTS = (PLAIN, ROCKSDB, AT_LEAST_ONCE, EXACTLY_ONCE)

BASELINE_PER_CPU_S = (8_000, 13_000)
"""What plain Faust does on the machine the targets were set for; outside, ratios mean nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """``cpu_s``: user and system of the whole worker in the measured span of ``seconds``.

    ``rss_mb``: most memory it ever had resident, in MiB. ``broker_cpu_s``: the broker's
    CPU in the same span.
    """

    variant: str
    keys: int
    events: int
    seconds: float
    cpu_s: float
    events_per_cpu_s: float
    rss_mb: float
    broker_cpu_s: float


class VoidError(Exception):
    """What was measured says nothing; the text says why."""


def ratio(results: Sequence[Result], result: Result, base: str) -> float | None:
    """How many times the base variant of the same key count the result is."""
    for other in results:
        if other.variant == base and other.keys == result.keys:
            return result.events_per_cpu_s / other.events_per_cpu_s
    return None


def check_baseline(results: Sequence[Result]) -> None:
    """Raise :class:`VoidError` when plain Faust is faster or slower than it should be."""
    low, high = BASELINE_PER_CPU_S
    for result in results:
        if result.variant == PLAIN and not low <= result.events_per_cpu_s <= high:
            raise VoidError(
                f"{PLAIN} with {result.keys} keys does {result.events_per_cpu_s:,.0f} events per "
                f"CPU second, expected {low:,} to {high:,}: the machine is busy, or not like the "
                "one the targets were set for"
            )


def show(results: Sequence[Result], machine: str, date: str) -> None:
    """Print the table."""
    table = Table(title=f"Events per CPU second of the whole worker process\n{machine}, {date}")
    table.add_column("variant")
    for name in (
        "keys", "events", "seconds", "CPU s", "events/CPU s", "x plain", "x rocksdb",
        "peak MiB", "broker CPU s",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for each in results:
        ratios = (ratio(results, each, PLAIN), ratio(results, each, ROCKSDB))
        table.add_row(
            each.variant,
            f"{each.keys:,}",
            f"{each.events:,}",
            f"{each.seconds:.1f}",
            f"{each.cpu_s:.1f}",
            f"{each.events_per_cpu_s:,.0f}",
            *("-" if r is None else f"{r:.1f}" for r in ratios),
            f"{each.rss_mb:.0f}",
            f"{each.broker_cpu_s:.1f}",
        )
    Console(width=130).print(table)


def today() -> str:
    """Date of the run, UTC."""
    return dt.datetime.now(tz=dt.UTC).date().isoformat()


def keep(results: Sequence[Result], machine: str, date: str, void: str | None) -> Path:
    """Write ``results/latest.json``; ``void`` says why the run is void, None that it is not."""
    return _dump("latest", {"machine": machine, "date": date, "void": void}, results)


def write(name: str, results: Sequence[DataclassInstance], **about: object) -> Path:
    """Write ``results/<name>.json``: machine, date, what is said ``about`` all, the results."""
    return _dump(name, {"machine": machine(), "date": today(), **about}, results)


def _dump(name: str, about: dict[str, object], results: Sequence[DataclassInstance]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = about | {"results": [asdict(result) for result in results]}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
