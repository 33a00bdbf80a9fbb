"""The broker as a process: its record on disk, and how it is told from a stranger.

A pid alone proves nothing, because the system reuses them. The broker's command line
carries its state folder; where it cannot be read, the recorded start time decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

START_TIME_TOLERANCE_S = 2.0
"""The system derives start times from a clock that may be stepped."""


@dataclass(frozen=True, slots=True)
class Record:
    """Content of ``broker.json``: ``started_at`` is the process's start in epoch seconds."""

    pid: int
    port: int
    started_at: float


def read_record(path: Path) -> Record | None:
    """The record, or None when there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(int(content["pid"]), int(content["port"]), float(content["started_at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Replace the record atomically: a reader sees the old one or the new one."""
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")
    staged.replace(path)


def recorded_process(record: Record | None, marker: str) -> psutil.Process | None:
    """The record's process while it lives and is the broker; None when the record is stale."""
    if record is None or record.pid <= 0:
        return None
    try:
        process = psutil.Process(record.pid)
        if not running(process):
            return None
        try:
            return process if marker in process.cmdline() else None
        except psutil.AccessDenied:
            same = abs(process.create_time() - record.started_at) <= START_TIME_TOLERANCE_S
            return process if same else None
    except psutil.NoSuchProcess:
        return None


def unrecorded_process(marker: str) -> psutil.Process | None:
    """The broker among all processes: its starter died before it could write the record."""
    for process in psutil.process_iter():
        try:
            if marker in process.cmdline() and running(process):
                return process
        except psutil.Error:
            continue
    return None


def running(process: psutil.Process) -> bool:
    """Whether the process still lives; one that ended, reaped or not, does not.

    A killed JVM is a zombie by its first thread while the others still hold its ports and
    files: it has ended with the last of them.
    """
    try:
        return process.is_running() and (
            process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
        )
    except psutil.NoSuchProcess:
        return False


def await_end(process: psutil.Process, timeout_s: float) -> bool:
    """Wait until the process has ended and reap it if it is a child; False after the timeout.

    psutil's own wait would wait for the reaping too, which is the starter's: it may be a
    worker that lives on.
    """
    deadline = time.monotonic() + timeout_s
    while running(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    with contextlib.suppress(psutil.Error):
        process.wait(0)
    return True


def spawn(argv: list[str], out: Path) -> psutil.Process:
    """Start a program in a session of its own, its output in ``out``, and let go of it.

    No signal sent to this process's terminal or group reaches it.
    """
    output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(out), output, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
    )
    return psutil.Process(pid)
