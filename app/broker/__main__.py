"""``python -m app.broker start|stop|status --home DIR``: the broker without the application."""

from __future__ import annotations

import sys

from app.broker.commands import broker_command
from app.settings import SettingsError, load_settings

if __name__ == "__main__":
    try:
        settings = load_settings()
    except SettingsError as exc:
        sys.exit(str(exc))
    broker_command(settings)(prog_name="python -m app.broker")
