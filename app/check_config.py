"""``faust -A app check-config``: every mistake in the configuration, or what it declares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click

from app.broker.catalogue import load_catalogue
from app.broker.errors import BrokerError
from app.settings import CONFIG_DIR, Settings
from tables.entities.spec import EntitySpecError, EntitySpecs, load_entities
from tables.sessions.config import SessionSpecError, load_sessions
from tables.sessions.spec import SessionSpec
from tables.windows.spec import WindowSpec, WindowSpecError, load_windows
from web.fixed_windows import view_mistakes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Declared:
    """What the files of the configuration folder declare."""

    windows: tuple[WindowSpec, ...]
    sessions: tuple[SessionSpec, ...]
    entities: EntitySpecs


class ConfigError(Exception):
    """Files that cannot be used; the text has a line for every mistake in all of them."""


def load_declared(settings: Settings) -> Declared:
    """Read every file of ``settings.config``, or raise :class:`ConfigError`."""
    mistakes: list[str] = []

    def read(load: Callable[[], T]) -> T | None:
        try:
            return load()
        except (WindowSpecError, SessionSpecError, EntitySpecError) as exc:
            mistakes.append(str(exc))
            return None

    file = settings.config / "windows.yaml"
    windows = read(lambda: load_windows(file))
    if windows is not None:
        mistakes += [f"{file}: {said}" for said in view_mistakes(windows)]
    sessions = read(lambda: load_sessions(settings.config / "sessions.yaml"))
    entities = read(lambda: load_entities(settings.config / "entities.yaml"))
    if windows is None or sessions is None or entities is None or mistakes:
        raise ConfigError("\n".join(mistakes))
    return Declared(windows, sessions, entities)


def check_config_command(settings: Settings) -> click.Command:
    """The command; mistakes of the settings end the process before it, with their names."""

    @click.command(name="check-config", short_help="Validate the configuration files.")
    def check_config() -> None:
        """Read every file of the configuration and say what it declares.

        Exits with 1 and a line for every mistake. Touches neither the broker nor a worker.
        """
        try:
            declared = load_declared(settings)
            topics = load_catalogue(CONFIG_DIR / "topics.yaml")
        except (ConfigError, BrokerError) as exc:
            click.echo(str(exc), err=True)
            sys.exit(1)
        click.echo(f"{settings.config}: good")
        for title, names in (
            ("windows", [f"{each.name} ({each.kind})" for each in declared.windows]),
            ("sessions", [each.name for each in declared.sessions]),
            ("entities", list(declared.entities)),
            ("topics", list(topics.topics)),
        ):
            click.echo(f"  {title}: {', '.join(names) or 'none'}")

    return check_config
