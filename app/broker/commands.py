"""``broker start|stop|status`` for the command line.

Register under Faust's umbrella command with
``faust.cli.base.cli.add_command(broker_command(settings))`` while the app is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from app.broker.embedded import broker_status, ensure_broker, stop_broker
from app.broker.errors import BrokerError
from app.settings import Settings


def broker_command(settings: Settings) -> click.Group:
    """The ``broker`` command group; the state folder defaults to the settings'."""
    home = click.option(
        "--home",
        type=click.Path(path_type=Path),
        default=settings.home,
        show_default=True,
        help="State folder of the broker.",
    )

    @click.group(name="broker", short_help="The embedded Kafka: start, stop, status.")
    def broker() -> None:
        """Start, stop or look at the embedded Kafka of the state folder."""
        if settings.broker is not None:
            raise click.ClickException(
                f"HEADRACE_BROKER is {settings.broker}, so there is no embedded broker: unset it "
                f"to use one"
            )

    @broker.command(name="start")
    @home
    def start(home: Path) -> None:
        """Start the broker, or find it running; returns when it answers."""
        with _exit_1():
            address = ensure_broker(home, progress=lambda line: click.echo(line, err=True))
        how = "started" if address.started else "was already running"
        click.echo(f"broker {how} at {address.bootstrap} (pid {address.pid})")

    @broker.command(name="stop")
    @home
    def stop(home: Path) -> None:
        """Stop the broker; its data is kept."""
        with _exit_1():
            stopped = stop_broker(home)
        click.echo("broker stopped" if stopped else f"no broker runs in {home}")

    @broker.command(name="status")
    @home
    def status(home: Path) -> None:
        """Tell where the broker answers and what it uses; exit code 1 when none runs."""
        found = broker_status(home)
        if found is None:
            raise click.ClickException(f"no broker runs in {home}")
        since = datetime.fromtimestamp(found.started_at, UTC)
        click.echo(
            f"broker {'answers' if found.answering else 'does not answer'} at {found.bootstrap} "
            f"(pid {found.pid}, since {since:%Y-%m-%d %H:%M:%S} UTC, "
            f"memory {found.rss_bytes >> 20} MB, data {found.data_bytes >> 20} MB)"
        )

    return broker


@contextmanager
def _exit_1() -> Iterator[None]:
    try:
        yield
    except BrokerError as exc:
        raise click.ClickException(str(exc)) from exc
