"""The embedded broker's log as events: follows the file, survives its rotation."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID, uuid5

from agents.shipping.pace import Pace, Sleep
from agents.shipping.port import EventSink, SinkError
from app.engine.clock import Clock
from app.models import rules
from app.models.event import LogEvent

logger = logging.getLogger(__name__)

SOURCE: Final = "kafka-broker"
INTERVAL_MS: Final = 1_000
READ_BYTES_MAX: Final = 256 * 1024
"""Read at one time; more is read at the next."""
_HISTORY_BYTES: Final = 256 * 1024
_EVENT_IDS: Final = UUID("b0f4a7d2-93c1-5e68-a1de-7f20c4653b98")
# The layout of app/broker/log4j2.xml: time with zone, level, logger, message.
_ENTRY: Final = re.compile(r"(\d{4}-\d\d-\d\dT\S{1,24}) ([A-Z]{4,5}) +(\S+) (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One log call: its line and the lines that follow it (a stack trace)."""

    text: str


class Assembler:
    """Joins lines to entries: a line that does not begin like one belongs to the one before."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0

    def feed(self, line: str) -> Entry | None:
        """Take a line; the previous entry, when this line begins another."""
        if _ENTRY.match(line) is not None:
            done = self.flush()
            self._lines, self._size = [line], len(line)
            return done
        # Lines before the first entry (cut off by the start position) belong to nothing.
        if self._lines and self._size < rules.MESSAGE_BYTES_MAX:
            self._lines.append(line)
            self._size += len(line)
        return None

    def flush(self) -> Entry | None:
        """The entry being assembled: nothing more is coming."""
        done = Entry("\n".join(self._lines)) if self._lines else None
        self._lines, self._size = [], 0
        return done


def entry_event(entry: Entry, now_ms: int) -> LogEvent | None:
    """Event of an entry, or None when its time cannot be read.

    The id comes from the text, which holds the time: read again, it is the same.
    """
    match = _ENTRY.match(entry.text)
    if match is None:
        return None
    try:
        timestamp = rules.check_not_future(rules.parse_timestamp(match[1]), now_ms)
        level = rules.canonical_level(match[2])
    except rules.RuleError:
        return None
    return LogEvent(
        event_id=str(uuid5(_EVENT_IDS, entry.text)),
        timestamp=timestamp,
        source=SOURCE,
        service=SOURCE,
        level=level,
        type="system",
        message=rules.clip_utf8(match[4], rules.MESSAGE_BYTES_MAX),
        metadata={"logger": match[3][: rules.METADATA_VALUE_MAX]},
    )


class Tail:
    """Whole lines added to a file since the last read. A missing file has none yet.

    A file that was replaced (other inode) or cut is read from its start, after what was
    left of the old one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> list[str]:
        """New lines, of at most :data:`READ_BYTES_MAX` bytes. Raises OSError."""
        if self._file is None and not self._open(_HISTORY_BYTES):
            return []
        data = self._more()
        if not data and self._replaced():
            self.close()
            data = self._more() if self._open(None) else b""
        lines = (self._rest + data).split(b"\n")
        # A line without an end in sight is cut, so that the rest stays bounded.
        self._rest = lines.pop() if len(lines[-1]) < READ_BYTES_MAX else b""
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def _more(self) -> bytes:
        return self._file.read(READ_BYTES_MAX) if self._file is not None else b""

    def _open(self, history: int | None) -> bool:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return False
        if history is not None:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - history))
        self._file = file
        return True

    def _replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev) or (
            there.st_size < self._file.tell()
        )


async def run_brokerlog(
    port: EventSink,
    path: Path,
    *,
    clock: Clock,
    since_ms: int,
    topic: str = "application-logs",
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Send the broker's log entries from ``since_ms`` on (epoch ms) until cancelled.

    An entry is sent when the next begins, or a second later. What the sink refuses is
    dropped: the file still has it.
    """
    tail, assembler = Tail(path), Assembler()
    pace = Pace(INTERVAL_MS, clock, sleep)
    try:
        while True:
            now_ms = await pace.next()
            try:
                lines = await asyncio.to_thread(tail.read)
                entries = [assembler.feed(line) for line in lines]
                if not lines:
                    entries.append(assembler.flush())
                made = [entry_event(entry, now_ms) for entry in entries if entry is not None]
                events = [e for e in made if e is not None and e.timestamp >= since_ms]
                if events:
                    await port.send(topic, events)
            except (SinkError, OSError) as exc:
                logger.warning("entries of the broker's log dropped: %s", exc)
    finally:
        tail.close()
