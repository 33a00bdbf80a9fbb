"""How long a month of one key's minutes takes to read from files, over HTTP, among many keys."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import click
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from agents.history.compaction import compact
from agents.history.files import ROW_GROUP, write_file
from app.engine.partitioner import partition_for
from benchmarks.process import machine, usage
from benchmarks.results import RESULTS, today
from tables.history.datasets import WINDOWS, ColdWindow
from tables.history.duck import open_duck
from tables.history.folder import DatasetFolder, dataset_folder
from tables.history.names import DAY_MS, HistoryFile, Source, day_of
from tables.history.query import Asked
from tables.history.reader import ROWS_MAX, History
from tests.web.fakes import Clock, running_worker

KEYS = 200
DAYS = 30
PARTITIONS = 12
MINUTE_MS = 60_000
MINUTES = DAY_MS // MINUTE_MS
START_MS = 1_790_035_200_000
COLD_S_MAX = 0.2
T = TypeVar("T")
NAME = "requests_per_endpoint"
PARTS = 4
"""Files of each day and partition before they are merged."""

# Sums and extremes are microseconds told in milliseconds, quantiles middles of buckets.
ROWS = """
SELECT row_number() OVER (ORDER BY "start", "key") - 1 + $first AS "offset",
  md5("key" || "start") AS "id", $name AS "name", "key", "start", "start" + 60000 AS "end",
  1::BIGINT AS "revision", (random() * 1000)::BIGINT AS "count",
  (random() * 10)::BIGINT AS "errors", round(random() * 1e5, 3) AS "sum",
  random() * 100 AS "avg", round(random(), 3) AS "min", round(random() * 1e3, 3) AS "max",
  round(random() * 50, 4) AS "p50", round(random() * 200, 4) AS "p95",
  round(random() * 500, 4) AS "p99", random() * 30 AS "stddev",
  (random() * 300)::BIGINT AS "distinct",
  0::BIGINT AS "late", '{"404":' || (random() * 9)::BIGINT || ',"503":1}' AS "codes"
FROM (SELECT unnest($keys) AS "key"), (SELECT unnest(range($from_ms, $to_ms, 60000)) AS "start")
ORDER BY "key", "start"
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of ``queries`` questions for ``rows`` rows each; ``first_s`` was the first of all."""

    what: str
    queries: int
    rows: int
    first_s: float
    p50_s: float
    p99_s: float
    cpu_s: float


def fill(folder: DatasetFolder, days: int) -> tuple[float, float]:
    """Write and merge the files; seconds of writing and of merging."""
    keys = [f"/endpoint/{number}" for number in range(KEYS)]
    placed: list[list[str]] = [[] for _ in range(PARTITIONS)]
    for key in keys:
        placed[partition_for(f"{NAME}/{key}".encode(), PARTITIONS)].append(key)
    sources = {Source("0badcafe", partition) for partition in range(PARTITIONS)}
    began = time.monotonic()
    with open_duck(folder.path, threads=2) as duck:
        for day in range(days):
            for partition, mine in enumerate(placed):
                for part in range(PARTS):
                    span = DAY_MS // PARTS
                    from_ms = START_MS + day * DAY_MS + part * span
                    count = len(mine) * MINUTES // PARTS
                    first = (day * PARTS + part) * count
                    if not mine:
                        continue
                    file = HistoryFile(
                        Source("0badcafe", partition),
                        first,
                        first + count - 1,
                        from_ms,
                        from_ms + span - MINUTE_MS,
                        day_of(from_ms),
                        PARTITIONS,
                    )
                    rows = duck.sql(
                        ROWS,
                        params={
                            "first": first,
                            "name": NAME,
                            "keys": mine,
                            "from_ms": from_ms,
                            "to_ms": from_ms + span,
                        },
                    ).to_arrow_table()

                    def write(writer: pq.ParquetWriter, rows: object = rows) -> None:
                        writer.write_table(rows.cast(WINDOWS.schema), row_group_size=ROW_GROUP)  # type: ignore[attr-defined]

                    write_file(folder, file, WINDOWS, write)
    written = time.monotonic()
    # The last merge is followed by one that finds nothing, and old files go at once.
    after_ms = START_MS + (days + 1) * DAY_MS
    while compact(folder, WINDOWS, sources, after_ms).merged:
        pass
    compact(folder, WINDOWS, sources, time.time_ns() // 1_000_000 + DAY_MS)
    return written - began, time.monotonic() - written


@contextmanager
def served(base: Path, now_ms: int) -> Iterator[tuple[int, int]]:
    """Process id and port of a web server over the files, in a process of its own."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(base, now_ms, there), daemon=True
    )
    process.start()
    try:
        if not here.poll(60):
            raise TimeoutError("the server did not start within a minute")
        yield process.pid or 0, here.recv()
    finally:
        process.terminate()
        process.join()


def _serve(base: Path, now_ms: int, told: Connection) -> None:
    async def until_terminated() -> None:
        async with running_worker(clock=Clock(now_ms), history=base) as worker:
            told.send(worker.client.port)
            await asyncio.Event().wait()

    asyncio.run(until_terminated())


def _get(port: int, key: str, from_ms: int, to_ms: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    path = f"/api/v1/windows/{NAME}/{quote(key, safe='')}?from={from_ms}&to={to_ms}"
    connection.request("GET", path)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status} {body[:200]!r}")
    return body


def _windows(body: bytes) -> int:
    return body.count(b'"source":"cold"')


def measure(
    what: str,
    queries: int,
    ask: Callable[[str], T],
    count: Callable[[T], int],
    cpu_s: Callable[[], float],
    draws: Iterator[str],
) -> Timing:
    """Ask for one key after the other; every answer must have as many rows.

    ``cpu_s`` are CPU seconds so far of the process that answers.
    """
    taken, rows, cpu = [], set(), cpu_s()
    for _ in range(queries):
        began = time.perf_counter()
        answer = ask(next(draws))
        taken.append(time.perf_counter() - began)
        rows.add(count(answer))
    cpu = cpu_s() - cpu
    (found,) = rows
    first, ordered = taken[0], sorted(taken)
    return Timing(
        what,
        queries,
        found,
        first,
        ordered[len(ordered) // 2],
        ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        cpu / queries,
    )


def run(base: Path, days: int, queries: int) -> tuple[list[Timing], str]:
    """Timings, the file names' part beside all files, and what the files are."""
    folder = dataset_folder(base, "", WINDOWS.name)
    folder.path.mkdir(parents=True)
    click.echo(f"writing {KEYS * days * MINUTES:,} rows ...", err=True)
    write_s, merge_s = fill(folder, days)
    files = folder.files()
    size = sum(folder.file(each).stat().st_size for each in files)
    rows = KEYS * days * MINUTES
    about = (
        f"{rows:,} rows of {KEYS} keys in {len(files)} files, {size / (1 << 20):,.0f} MiB; "
        f"merged from {PARTS} each in {merge_s:.1f} s ({rows / merge_s:,.0f} rows/s), "
        f"written in {write_s:.1f} s"
    )
    until = START_MS + days * DAY_MS
    draw = random.Random(7)  # noqa: S311 - which keys are asked for
    draws = iter(lambda: f"/endpoint/{draw.randrange(KEYS)}", "")
    # Two days later, so that state is not asked for any of them.
    with served(base, until + 2 * DAY_MS) as (pid, port):
        remote = [
            measure(
                f"{name} of one key, over HTTP",
                queries,
                lambda key, from_ms=from_ms: _get(port, key, from_ms, until),  # type: ignore[misc]
                _windows,
                lambda: usage(pid).cpu_s,
                draws,
            )
            for name, from_ms in ((f"{days} days", START_MS), ("one day", until - DAY_MS))
        ]
    history = History(base, "", time_max_s=60.0)
    local = measure(
        f"{days} days of one key, in process",
        queries,
        lambda key: history.windows_told(NAME, key, START_MS, until, ROWS_MAX, {}),
        len,
        time.process_time,
        draws,
    )
    everywhere = measure(
        f"{days} days of one key, of all files",
        max(5, queries // 10),
        lambda key: history.ask(
            Asked(
                WINDOWS,
                START_MS,
                until,
                ColdWindow.__struct_fields__,
                {"name": NAME, "key": key},
                None,
                50_000,
            )
        ),
        len,
        time.process_time,
        draws,
    )
    history.close()
    return [*remote, local, everywhere], about


@click.command(name="history")
@click.option("--days", type=click.IntRange(1, 34), default=DAYS, help="Days of minute windows.")
@click.option("--queries", type=click.IntRange(5, 10_000), default=200, help="Questions asked.")
def bench_history(days: int, queries: int) -> None:
    """Read a month of one key over HTTP: p99 under 200 ms; writes results/history.json."""
    with tempfile.TemporaryDirectory(prefix="headrace-history-") as base:
        found, about = run(Path(base), days, queries)
    table = Table(title=f"History: {about}\n{machine()}, {today()}")
    for name in ("question", "queries", "rows", "first ms", "p50 ms", "p99 ms", "CPU ms"):
        table.add_column(name, justify="left" if name == "question" else "right")
    for each in found:
        times = (each.first_s, each.p50_s, each.p99_s, each.cpu_s)
        table.add_row(
            each.what,
            f"{each.queries:,}",
            f"{each.rows:,}",
            *(f"{seconds * 1000:.1f}" for seconds in times),
        )
    Console(width=130).print(table)
    RESULTS.mkdir(exist_ok=True)
    document = {
        "machine": machine(),
        "date": today(),
        "about": about,
        "results": [asdict(each) for each in found],
    }
    (RESULTS / "history.json").write_text(json.dumps(document, indent=2) + "\n")
    if found[0].p99_s > COLD_S_MAX:
        sys.exit(f"missed: {found[0].p99_s * 1000:.0f} ms, allowed {COLD_S_MAX * 1000:.0f} ms")
