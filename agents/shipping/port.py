"""Where collected events go: the port that the collectors run against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.models.event import LogEvent


class SinkError(Exception):
    """The events were not taken (broker gone, buffer full); trying again later may work."""


class EventSink(Protocol):
    """Takes events and returns once they are acknowledged."""

    async def send(self, topic: str, events: Sequence[LogEvent]) -> None:
        """Send events, keyed by service, to a topic given by its logical name.

        Raises :class:`SinkError` when they may not have arrived.
        """
        ...
