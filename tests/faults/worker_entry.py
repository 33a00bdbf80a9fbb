"""Faust's command line with a trap in the commit: ``python -m tests.faults.worker_entry``."""

from __future__ import annotations

import os
from pathlib import Path

from faust.cli.faust import cli

import app
from app.main import build
from tests.faults.trap import FOLDER, TrapProbe


def main() -> None:
    """Build the application around the probe, where ``-A app`` will find it; then as always."""
    vars(app)["app"] = build(TrapProbe(Path(os.environ[FOLDER])))
    cli()


if __name__ == "__main__":
    main()
