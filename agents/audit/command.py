"""``faust -A app audit``: one audit from the logs' beginning, on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from agents.audit.auditor import Auditor
from agents.audit.facts import Audited
from agents.audit.reader import AuditError, AuditTarget, Reader
from agents.audit.report import FINDINGS_MAX, Report

COLUMNS: Final = (
    "in",
    "applied",
    "late",
    "duplicate",
    "rejected",
    "in flight",
    "difference",
)
WIDTH_MIN: Final = 120
"""Columns the table needs: where there are fewer, lines may wrap, but no number is cut."""
_COLOURS: Final = {"balanced": "green", "in flight": "cyan", "trimmed": "yellow", "mismatch": "red"}


def audit_command(
    target: AuditTarget,
    configured: Audited,
    clock: Callable[[], int],
    console: Console | None = None,
) -> int:
    """Audit once and print what was found. Blocks.

    Returns the exit code: 0 when nothing contradicts the ledger, 1 on a mismatch or when
    the topics could not be read.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    reader = Reader(target, 1.0, lambda: False)
    try:
        report = Auditor(reader, configured, clock).round()
    except AuditError as exc:
        console.print(f"audit: {exc}", markup=False)
        return 1
    finally:
        reader.close()
    console.width = max(console.width, WIDTH_MIN)
    console.print(_table(report))
    for line in describe(report):
        console.print(line, markup=False)
    return 1 if report.mismatches else 0


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("topic", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for line in report.lines:
        numbers = (
            line.records,
            line.applied,
            line.late,
            line.duplicate,
            line.rejected,
            line.in_flight,
            line.difference,
        )
        table.add_row(
            line.topic,
            *(f"{number:,}" for number in numbers),
            f"[{_COLOURS[line.verdict]}]{line.verdict}[/]",
        )
    return table


def describe(report: Report) -> list[str]:
    """The report in sentences: what was checked, what does not add up, what cannot be known."""
    rate = report.records_read / report.seconds if report.seconds > 0 else 0
    lines = [
        f"{report.records_read:,} records read in {report.seconds:.2f} s ({rate:,.0f} records/s)"
    ]
    lines += [f"mismatch: {each.sentence()}" for each in report.mismatches[:FINDINGS_MAX]]
    if len(report.mismatches) > FINDINGS_MAX:
        lines.append(f"and {len(report.mismatches) - FINDINGS_MAX} more")
    lines += [f"note: {note}" for note in report.notes[:FINDINGS_MAX]]
    if any(line.verdict == "in flight" for line in report.lines):
        lines.append(
            "Some accounts moved while they were read: they agree within what was in flight. "
            "Audit again when it is quieter for an exact answer."
        )
    return lines
