"""Faust's command line, with an audit each half second: ``python -m tests.audit.worker_entry``."""

from __future__ import annotations

from functools import partial

from faust.cli.faust import cli

from app import serving


def main() -> None:
    """Replace what makes the rounds; then as always."""
    vars(serving)["AuditRounds"] = partial(serving.AuditRounds, period_s=0.5)
    cli()


if __name__ == "__main__":
    main()
