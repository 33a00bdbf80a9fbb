"""``faust -A app ship``: the run on the terminal. Wiring (settings, click) is the app's."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from agents.shipping.parsers import Format
from agents.shipping.ship import FileReport, ShipReport, ship_files
from app.engine.clock import Clock, SystemClock


def new_lane() -> str:
    """Lane prefix of a run: unique, short, and recognisable in a record's header."""
    return f"ship-{secrets.token_hex(4)}"


class ProgressBars:
    """A bar for each file: bytes, bytes per second, events per second."""

    def __init__(self, bars: Progress, clock: Clock) -> None:
        self._bars = bars
        self._clock = clock
        self._tasks: dict[Path, tuple[TaskID, float, int]] = {}

    def __call__(self, path: Path, bytes_read: int, bytes_total: int, events: int) -> None:
        """Show how far the file has come."""
        now = self._clock.monotonic()
        if path not in self._tasks:
            task = self._bars.add_task(path.name, total=bytes_total, rate="")
            self._tasks[path] = (task, now, events)
        task, since, events_then = self._tasks[path]
        passed = now - since
        rate = f"{(events - events_then) / passed:,.0f} events/s" if passed > 0 else ""
        self._bars.update(task, completed=bytes_read, rate=rate)


def ship_command(
    files: Sequence[Path],
    *,
    format: Format,  # noqa: A002 - the option's name
    service: str | None,
    bootstrap: str,
    topic: str,
    dlq_topic: str,
    console: Console | None = None,
) -> int:
    """Ship the files with a progress bar and print what became of them. Blocks.

    Returns the exit code: 0 when every file was read to its end and acknowledged (rejected
    lines are reported, and dead-lettered), 1 otherwise. ``topic`` and ``dlq_topic`` are
    physical names.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    clock = SystemClock()
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        report = ship_files(
            files,
            format=format,
            service=service,
            bootstrap=bootstrap,
            topic=topic,
            dlq_topic=dlq_topic,
            lane=new_lane(),
            progress=ProgressBars(bars, clock),
            clock=clock,
        )
    for line in describe(report):
        console.print(line, markup=False)
    return 0 if report.failure is None else 1


def describe(report: ShipReport) -> list[str]:
    """The report in sentences: a line for each file, the total, the failure."""
    lines = [_file_line(one) for one in report.files]
    if report.files:
        rate = report.acknowledged / report.seconds if report.seconds > 0 else 0
        lines.append(
            f"{report.acknowledged:,} of {report.events:,} events acknowledged "
            f"in {report.seconds:.2f} s ({rate:,.0f} events/s)"
        )
    if report.failure is not None:
        lines.append(f"ship: {report.failure}")
        if report.acknowledged < report.events:
            lines.append("Shipped again, the same lines carry the same event ids, in a new lane.")
    return lines


def _file_line(one: FileReport) -> str:
    if one.lines == 0:
        return f"{one.path}: empty, nothing to ship"
    line = f"{one.path}: {one.events:,} events as service {one.service}"
    if one.blank:
        line += f", {one.blank:,} blank lines skipped"
    if one.rejected:
        line += f", {one.rejected:,} lines rejected and dead-lettered ({one.first_reject})"
    return line
