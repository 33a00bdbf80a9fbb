"""Ship whole log files to a topic: parse, normalise, produce, dead-letter, report.

A file is one source of time: each gets a lane of its own, so an old file neither is late
nor makes live traffic late. Event ids come from the file's content, so that a file
shipped again can be recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from agents.shipping.lines import FileError, Line, LineFile
from agents.shipping.outbound import BrokerError, Outbound, RecordHeaders
from agents.shipping.parsers import Format, ParseError, RawEvent, parse
from app.engine.clock import Clock
from app.engine.lanes import LANE_HEADER, LANE_ID_MAX
from app.engine.side_outputs import ERROR_MESSAGE_MAX, error_signature
from app.models import rules
from app.models.event import LogEvent, encode_event
from app.models.incoming import normalise

WRONG_FORMAT_LINES: Final = 1_000
"""So many bad lines without one good one: the format is wrong, not the lines."""
FILES_MAX: Final = 256
_PROGRESS_LINES: Final = 500
_LINE_IDS: Final = UUID("0d9c4be2-6a35-5f0c-8f63-51a7e90c2b7d").bytes


class Progress(Protocol):
    """Told now and then how far a file has come."""

    def __call__(self, path: Path, bytes_read: int, bytes_total: int, events: int) -> None:
        """Bytes are of the file on disk; ``events`` counts lines queued so far."""
        ...


@dataclass(slots=True)
class FileReport:
    """What became of one file. ``lines = events + rejected + blank``."""

    path: Path
    service: str
    lane: str
    lines: int = 0
    events: int = 0
    rejected: int = 0
    blank: int = 0
    first_reject: str = ""
    """Line number and reason of the first rejected line."""


@dataclass(slots=True)
class ShipReport:
    """What became of a run. ``failure`` is None when every file was read and acknowledged."""

    files: list[FileReport] = field(default_factory=list)
    acknowledged: int = 0
    """Events the broker has confirmed (dead letters not counted)."""
    dead_lettered: int = 0
    seconds: float = 0.0
    failure: str | None = None

    @property
    def events(self) -> int:
        """Lines that became events."""
        return sum(f.events for f in self.files)


def service_of(path: Path) -> str:
    """Service named by a file: its name without ``.gz`` and the last suffix."""
    name = path.name.removesuffix(".gz")
    stem = Path(name).stem or name
    kept = "".join(c if c.isprintable() else "_" for c in stem)
    return rules.clip_utf8(kept.encode("utf-8", "replace").decode(), rules.KEY_MAX) or "file"


def ship_files(  # noqa: PLR0913 - the command's options, passed on by name
    files: Sequence[Path],
    *,
    format: Format,  # noqa: A002 - the option's name
    service: str | None,
    bootstrap: str,
    topic: str,
    dlq_topic: str,
    lane: str,
    progress: Progress,
    clock: Clock,
    timeout_s: float = 15.0,
) -> ShipReport:
    """Ship the files, one after the other, and wait for the acknowledgements. Never raises.

    ``lane`` must be unique to the run (lower-case letters, digits, hyphens, at most 20);
    each file's lane is made of it and the file's number. ``timeout_s``: how long the
    broker may be away. Every file is opened before anything is sent, so a wrong name
    costs nothing.
    """
    report = ShipReport()
    started = clock.monotonic()
    out: Outbound | None = None
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(LineFile(path)) for path in _checked(files, service)]
            out = Outbound(bootstrap, timeout_s)
            stack.callback(out.close)
            out.check((topic, dlq_topic))
            run = _Run(format, topic, dlq_topic, out, progress, clock)
            try:
                for number, (path, lines) in enumerate(zip(files, opened, strict=True)):
                    one = FileReport(path, service or service_of(path), f"{lane}-{number:x}")
                    report.files.append(one)
                    run.ship(lines, one, override=service is not None)
            except FileError as exc:
                report.failure = str(exc)
            out.flush()
    except (FileError, BrokerError) as exc:
        report.failure = "; ".join(filter(None, (report.failure, str(exc))))
    if out is not None:
        report.acknowledged = out.acknowledged.get(topic, 0)
        report.dead_lettered = out.acknowledged.get(dlq_topic, 0)
    report.seconds = clock.monotonic() - started
    return report


def _checked(files: Sequence[Path], service: str | None) -> Sequence[Path]:
    if len(files) > FILES_MAX:
        raise FileError(f"{len(files)} files are too many at once: give at most {FILES_MAX}")
    if service is not None and not (0 < len(service) <= rules.KEY_MAX and service.isprintable()):
        raise FileError(f"--service must be 1 to {rules.KEY_MAX} printable characters")
    return files


@dataclass(frozen=True, slots=True)
class _Run:
    format: Format
    topic: str
    dlq_topic: str
    out: Outbound
    progress: Progress
    clock: Clock

    def ship(self, lines: LineFile, report: FileReport, *, override: bool) -> None:
        """Queue every line of the file; the report counts as it goes."""
        if len(report.lane) > LANE_ID_MAX:
            raise FileError(f"lane {report.lane} is longer than {LANE_ID_MAX} characters")
        headers: RecordHeaders = [(LANE_HEADER, report.lane.encode())]
        identity: bytes | None = None
        for line in lines:
            report.lines += 1
            if identity is None:
                identity = hashlib.sha256(line.text).digest()[:8]
            if not line.text.strip():
                report.blank += 1
            else:
                self._line(line, identity, report, headers, override=override)
            if report.lines % _PROGRESS_LINES == 0:
                self.progress(report.path, lines.bytes_read, lines.bytes_total, report.events)
                _stop_at_wrong_format(report, self.format, WRONG_FORMAT_LINES)
        self.progress(report.path, lines.bytes_total, lines.bytes_total, report.events)
        _stop_at_wrong_format(report, self.format, 1)

    def _line(
        self,
        line: Line,
        identity: bytes,
        report: FileReport,
        headers: RecordHeaders,
        *,
        override: bool,
    ) -> None:
        now_ms = self.clock.now_ms()
        raw = parse(line.text, self.format)
        if isinstance(raw, ParseError):
            self._dead_letter(line, report, raw.reason, now_ms)
            return
        _name(raw, report.service, override=override)
        event = normalise(raw, now_ms, partial(line_id, identity, line))
        if isinstance(event, LogEvent):
            report.events += 1
            self.out.send(self.topic, event.service.encode(), encode_event(event), headers)
        else:
            reason = "; ".join(f"{e.field} {e.reason}".strip() for e in event)
            self._dead_letter(line, report, reason, now_ms)

    def _dead_letter(self, line: Line, report: FileReport, reason: str, now_ms: int) -> None:
        report.rejected += 1
        report.first_reject = report.first_reject or f"line {line.number}: {reason}"
        now = b"%d" % now_ms
        headers: RecordHeaders = [
            (LANE_HEADER, report.lane.encode()),
            ("original_topic", b"file"),
            ("source_file", str(report.path).encode("utf-8", "replace")[:ERROR_MESSAGE_MAX]),
            ("source_line", b"%d" % line.number),
            ("source_size", b"%d" % line.size),
            ("error_type", b"VALIDATION"),
            ("error_signature", error_signature("VALIDATION", reason).encode()),
            ("error_message", rules.clip_utf8(reason, ERROR_MESSAGE_MAX).encode()),
            ("attempt_count", b"1"),
            ("first_failure_timestamp", now),
            ("last_failure_timestamp", now),
        ]
        self.out.send(self.dlq_topic, report.service.encode(), line.text, headers)


def line_id(identity: bytes, line: Line) -> str:
    """UUIDv5 of the file's identity (its first line), the line's offset and its text.

    The same for a file under another name, compressed, or grown since.
    """
    name = _LINE_IDS + identity + b"%d:" % line.offset + line.text
    digest = hashlib.sha1(name, usedforsecurity=False).digest()
    return str(UUID(bytes=digest[:16], version=5))


def _name(raw: RawEvent, service: str, *, override: bool) -> None:
    if raw.get("source") is None:
        raw["source"] = service
    if override:
        raw["service"] = service


def _stop_at_wrong_format(report: FileReport, fmt: Format, lines_min: int) -> None:
    if report.events == 0 and report.rejected >= lines_min:
        raise FileError(
            f"{report.path}: none of its first {report.lines} lines is in the format {fmt} "
            f"({report.first_reject}); try another --format"
        )
