"""``faust -A app export``: the run on the terminal. Wiring (settings, click) is the app's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents.history.export import ExportError, Format, Wanted, export
from app.models.moments import EPOCH_MS_MAX, read_moment
from app.models.rules import RuleError
from tables.history.datasets import DATASETS
from tables.history.store import DatasetStore


@dataclass(frozen=True, slots=True)
class Bounds:
    """``[first, end)`` as it was written: RFC 3339, epoch ms, or before ``now_ms`` (``-15m``)."""

    first: str | None
    end: str | None
    now_ms: int


def export_command(
    store: DatasetStore,
    dataset: str,
    equal: Mapping[str, str | None],
    bounds: Bounds,
    output: Path,
    format_: Format,
    console: Console | None = None,
) -> int:
    """Export with a progress bar and print what became of it. Blocks.

    Returns the exit code: 0 when the file is complete, 1 when there is none.
    """
    console = console or Console(highlight=False, soft_wrap=True, stderr=True)
    try:
        wanted = _wanted(dataset, equal, bounds)
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rows]:,} rows"),
            TimeElapsedColumn(),
            console=console,
        ) as bars:
            task = bars.add_task(f"export {dataset}", total=None, rows=0)
            rows = export(
                store,
                wanted,
                output,
                format_,
                lambda done, total, rows: bars.update(task, completed=done, total=total, rows=rows),
            )
    except ExportError as exc:
        console.print(f"export: {exc}", markup=False)
        return 1
    console.print(f"{rows:,} rows of {dataset} written to {output}", markup=False)
    return 0


def _wanted(name: str, equal: Mapping[str, str | None], bounds: Bounds) -> Wanted:
    dataset = DATASETS[name]
    given = {column: value for column, value in equal.items() if value is not None}
    for column in given:
        if column not in dataset.columns:
            options = ", ".join(f"--{each}" for each in equal if each in dataset.columns)
            raise ExportError(f"{name} have no --{column}; they have {options}")
    now_ms = bounds.now_ms
    from_ms = 0 if bounds.first is None else _moment("from", bounds.first, now_ms)
    to_ms = EPOCH_MS_MAX if bounds.end is None else _moment("to", bounds.end, now_ms)
    if from_ms >= to_ms:
        raise ExportError("--from must be before --to")
    return Wanted(dataset, given, from_ms, to_ms)


def _moment(option: str, text: str, now_ms: int) -> int:
    try:
        return read_moment(text, now_ms)
    except RuleError as exc:
        raise ExportError(f"--{option}: {exc}") from exc
