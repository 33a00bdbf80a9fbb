"""Our commands beside Faust's: ``faust -A app broker``, ``ship``, ``audit`` and ``export``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from faust.cli.base import cli

from agents.audit.command import audit_command
from agents.audit.facts import audited
from agents.audit.reader import AuditTarget
from agents.history.command import Bounds, export_command
from agents.history.export import FORMATS as EXPORT_FORMATS
from agents.history.export import Format as ExportFormat
from agents.shipping.command import ship_command
from agents.shipping.parsers import FORMATS, Format
from agents.topics import APPLICATION_LOGS, DEAD_LETTERS
from app.broker.commands import broker_command
from app.broker.errors import BrokerError
from app.check_config import check_config_command
from app.engine.clock import SystemClock
from app.kafka import Kafka, connect
from app.settings import Settings
from tables.history.datasets import DATASETS
from tables.history.stores import dataset_store
from tables.sessions.config import load_sessions
from tables.windows.spec import load_windows


def register_commands(settings: Settings) -> None:
    """Add our commands to Faust's command line."""
    cli.add_command(broker_command(settings))
    cli.add_command(_ship(settings))
    cli.add_command(_audit(settings))
    cli.add_command(_export(settings))
    cli.add_command(check_config_command(settings))


def _connected(settings: Settings) -> Kafka:
    try:
        return connect(settings, progress=lambda line: click.echo(line, err=True))
    except BrokerError as exc:
        raise click.ClickException(str(exc)) from exc


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
        kafka = _connected(settings)
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


def _audit(settings: Settings) -> click.Command:
    @click.command(name="audit", short_help="Count the topics and hold the ledger against them.")
    def audit() -> None:
        """Check that every record ended in exactly one way: applied, late or rejected.

        Reads all topics from their beginning, committed records only, and compares them
        with what the workers have counted. Exits with 1 on a mismatch. Workers may run.
        """
        kafka = _connected(settings)
        target = AuditTarget(
            kafka.bootstrap,
            settings.group,
            settings.topic,
            kafka.partitions,
            kafka.record_bytes_max,
        )
        windows = load_windows(settings.config / "windows.yaml")
        sessions = load_sessions(settings.config / "sessions.yaml")
        sys.exit(audit_command(target, audited(windows, sessions), SystemClock().now_ms))

    return audit


def _export(settings: Settings) -> click.Command:
    @click.command(name="export", short_help="Copy history to a CSV or Parquet file.")
    @click.argument("dataset", type=click.Choice(sorted(DATASETS)))
    @click.option("--name", help="Windows: of this name only.")
    @click.option("--key", help="Windows: of this key only.")
    @click.option("--type", help="Sessions or entities: of this type only.")
    @click.option("--user", help="Sessions: of this user only.")
    @click.option("--id", help="Entities: this one only.")
    @click.option("--from", "from_", help="First moment, RFC 3339, epoch ms or -15m [all].")
    @click.option("--to", help="Moment after the last [default: all].")
    @click.option("--format", "format_", type=click.Choice(EXPORT_FORMATS), default="csv")
    @click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write.")
    def export(
        dataset: str,
        from_: str | None,
        to: str | None,
        format_: ExportFormat,
        output: Path,
        **equal: str | None,
    ) -> None:
        """Export what is archived of a DATASET, in its latest revision and in order of time.

        Needs no broker and no worker; both may run. Records of the last minute may not be
        archived yet.
        """
        sys.exit(
            export_command(
                dataset_store(settings.history_place, settings.namespace, dataset),
                dataset,
                equal,
                Bounds(from_, to, SystemClock().now_ms()),
                output,
                format_,
            )
        )

    return export
