"""Faust's command line with a trap in the commit and a clock that can be set wrong.

Run as ``python -m tests.faults.worker_entry``.
"""

from __future__ import annotations

import os
from pathlib import Path

from faust.cli.faust import cli

import app
from app.main import build
from tests.faults.trap import FOLDER, TrapProbe, WrongClock


def main() -> None:
    """Build the application around the probe, where ``-A app`` will find it; then as always."""
    folder = Path(os.environ[FOLDER])
    application = build(TrapProbe(folder))
    application.clock = WrongClock(folder)
    vars(app)["app"] = application
    cli()


if __name__ == "__main__":
    main()
