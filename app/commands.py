"""Our commands beside Faust's: ``faust -A app broker ...`` and ``faust -A app ship ...``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from faust.cli.base import cli

from agents.shipping.command import ship_command
from agents.shipping.parsers import FORMATS, Format
from agents.topics import APPLICATION_LOGS, DEAD_LETTERS
from app.broker.commands import broker_command
from app.broker.errors import BrokerError
from app.kafka import connect
from app.settings import Settings


def register_commands(settings: Settings) -> None:
    """Add our commands to Faust's command line."""
    cli.add_command(broker_command(settings))
    cli.add_command(_ship(settings))


def _ship(settings: Settings) -> click.Command:
    @click.command(name="ship", short_help="Send log files to application-logs.")
    @click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
    @click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        required=True,
        help="How the lines are written.",
    )
    @click.option("--service", help="Service of the events [default: the file's name].")
    def ship(files: tuple[Path, ...], format_: Format, service: str | None) -> None:
        """Ship log FILES (plain or gzip) as events, each file a lane of its own.

        Lines that cannot be read go to the dead letters with file and line number.
        """
        try:
            kafka = connect(settings, progress=lambda line: click.echo(line, err=True))
        except BrokerError as exc:
            raise click.ClickException(str(exc)) from exc
        sys.exit(
            ship_command(
                files,
                format=format_,
                service=service,
                bootstrap=kafka.bootstrap,
                topic=settings.topic(APPLICATION_LOGS),
                dlq_topic=settings.topic(DEAD_LETTERS),
            )
        )

    return ship
