"""Faust's command line for drills: ``python -m tests.faults.worker_entry``.

There is a trap in the commit, the clock can be set wrong, and every step raises on a record
that holds :data:`POISON`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from faust.cli.faust import cli

import app
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Step, View
from app.main import build
from tests.faults.trap import FOLDER, POISON, TrapProbe, WrongClock


def poisonable(step: Step) -> Step:
    """The step, but for records that hold :data:`POISON`."""

    def run(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        if any(POISON in (value or b"") for value in batch.values):
            raise LookupError("unforeseen")
        return step(batch, view, now_ms)

    return run


def main() -> None:
    """Build the application for the drill, where ``-A app`` will find it; then as always."""
    folder = Path(os.environ[FOLDER])
    application = build(TrapProbe(folder))
    application.clock = WrongClock(folder)
    application.specs = tuple(
        replace(spec, step=poisonable(spec.step)) for spec in application.specs
    )
    vars(app)["app"] = application
    cli()


if __name__ == "__main__":
    main()
