"""This host's CPU, memory and disk, each second, as metric events."""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from agents.shipping.pace import Pace, Sleep
from agents.shipping.port import EventSink, SinkError
from app.engine.clock import Clock
from app.models import rules
from app.models.event import LogEvent

logger = logging.getLogger(__name__)

SOURCE: Final = "host"
INTERVAL_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class HostReading:
    """Percentages are 0 to 100 of the whole host; ``disk`` is the file system of a folder."""

    cpu_percent: float
    memory_percent: float
    memory_used_bytes: int
    disk_percent: float
    disk_used_bytes: int


def read_host(folder: Path) -> HostReading:
    """Read now; CPU is the mean since the previous call (0.0 at the first)."""
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(str(folder))
    return HostReading(
        cpu_percent=psutil.cpu_percent(interval=None),
        memory_percent=memory.percent,
        memory_used_bytes=memory.used,
        disk_percent=disk.percent,
        disk_used_bytes=disk.used,
    )


def host_events(
    reading: HostReading, now_ms: int, host: str, new_id: Callable[[], str]
) -> list[LogEvent]:
    """One metric event for each number of the reading."""
    values = {
        "host.cpu.percent": reading.cpu_percent,
        "host.memory.percent": reading.memory_percent,
        "host.memory.used_bytes": float(reading.memory_used_bytes),
        "host.disk.percent": reading.disk_percent,
        "host.disk.used_bytes": float(reading.disk_used_bytes),
    }
    return [
        LogEvent(
            event_id=new_id(),
            timestamp=now_ms,
            source=SOURCE,
            service=SOURCE,
            type="metric",
            metric_name=name,
            value=value,
            metadata={"host": host},
        )
        for name, value in values.items()
    ]


def host_name() -> str:
    """This machine's name, as metadata may hold it."""
    return rules.clip_utf8(socket.gethostname() or "localhost", rules.KEY_MAX)


async def run_host(
    port: EventSink,
    *,
    clock: Clock,
    folder: Path,
    topic: str = "infrastructure-metrics",
    read: Callable[[Path], HostReading] = read_host,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Send this host's readings each second until cancelled; what the sink refuses is dropped.

    ``folder`` tells whose disk is read.
    """
    host = host_name()
    # The first CPU reading has nothing to compare itself with. A hung mount must not stop the
    # event loop, so readings are made in a thread.
    await asyncio.to_thread(read, folder)
    pace = Pace(INTERVAL_MS, clock, sleep)
    while True:
        now_ms = await pace.next()
        try:
            reading = await asyncio.to_thread(read, folder)
            await port.send(topic, host_events(reading, now_ms, host, lambda: str(uuid.uuid4())))
        except (SinkError, OSError) as exc:
            logger.warning("readings of this host dropped: %s", exc)
