"""One Kafka per state folder: found, shared, started, stopped.

Every operation holds the folder's lock, so workers may call at once. The broker runs in
a session of its own and outlives whoever started it; its ports are chosen at the first
start and kept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.broker.errors import BrokerError
from app.broker.jars import Progress
from app.broker.launch import (
    answers,
    await_answer,
    disk_full,
    exit_reason,
    free_ports,
    known_ports,
    size_of,
    start,
)
from app.broker.process import (
    Record,
    await_end,
    read_record,
    recorded_process,
    unrecorded_process,
    write_record,
)
from app.broker.properties import Layout


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker answers; ``started`` tells whether this call started it."""

    bootstrap: str
    pid: int
    port: int
    started: bool


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """A running broker; ``answering`` is False while it still starts or is stuck.

    ``started_at`` is in epoch seconds. ``data_bytes`` is the disk really used: Kafka's
    index files are sparse.
    """

    bootstrap: str
    pid: int
    port: int
    answering: bool
    started_at: float
    rss_bytes: int
    data_bytes: int


def ensure_broker(home: Path, *, progress: Progress = lambda _: None) -> BrokerAddress:
    """Find the running broker of the state folder, or start it; returns when it answers.

    ``progress`` is told in short lines what takes time. Raises :class:`BrokerError`.
    """
    layout = Layout(home.expanduser().resolve())
    with _folder(layout), _locked(layout, progress):
        process = _find(layout)
        if process is not None:
            port = _port_of(process, layout)
            _remember(layout, process, port)
            if await_answer(layout, port, process, progress):
                return BrokerAddress(f"127.0.0.1:{port}", process.pid, port, started=False)
            # It was on its way out: take over.
        return _started(layout, progress)


def restart_crashed(home: Path, *, progress: Progress = lambda _: None) -> BrokerAddress | None:
    """Start the folder's broker again if it ended without being stopped, else do nothing.

    ``stop_broker`` removes the record, and so does a start that failed: neither is undone.
    Raises :class:`BrokerError`.
    """
    layout = Layout(home.expanduser().resolve())
    if not _crashed(layout):
        return None
    with _folder(layout), _locked(layout, progress):
        # Whoever held the lock may have stopped it, or started it.
        return _started(layout, progress) if _crashed(layout) else None


def _crashed(layout: Layout) -> bool:
    record = read_record(layout.record)
    return record is not None and recorded_process(record, layout.marker) is None


def _started(layout: Layout, progress: Progress) -> BrokerAddress:
    ports = free_ports(layout)
    log_from = size_of(layout.log)
    process = start(layout, ports, progress)
    _remember(layout, process, ports.client)
    if not await_answer(layout, ports.client, process, progress):
        layout.record.unlink(missing_ok=True)
        raise BrokerError(exit_reason(layout, log_from))
    return BrokerAddress(f"127.0.0.1:{ports.client}", process.pid, ports.client, started=True)


def stop_broker(home: Path, timeout_s: float = 30) -> bool:
    """Stop the folder's broker; False when none was running.

    A broker that has not ended after ``timeout_s`` is killed; it recovers at its next start.
    """
    layout = Layout(home.expanduser().resolve())
    if not layout.root.is_dir():
        return False
    with _folder(layout), _locked(layout, lambda _: None):
        process = _find(layout)
        if process is not None:
            _end(process, timeout_s)
        layout.record.unlink(missing_ok=True)
    return process is not None


def broker_status(home: Path) -> BrokerStatus | None:
    """What the folder's broker does now, or None when it is not running. Takes no lock."""
    layout = Layout(home.expanduser().resolve())
    record = read_record(layout.record)
    process = recorded_process(record, layout.marker)
    if record is None or process is None:
        return None
    try:
        started_at = process.create_time()
        rss_bytes = process.memory_info().rss
    except psutil.NoSuchProcess:
        return None
    return BrokerStatus(
        bootstrap=f"127.0.0.1:{record.port}",
        pid=record.pid,
        port=record.port,
        answering=answers(record.port),
        started_at=started_at,
        rss_bytes=rss_bytes,
        data_bytes=_disk_used(layout.data),
    )


@contextlib.contextmanager
def _folder(layout: Layout) -> Iterator[None]:
    """Make the folders; any trouble with files in the body becomes a sentence."""
    try:
        layout.logs.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BrokerError(disk_full(layout)) from exc
        raise BrokerError(
            f"the state folder {layout.home} cannot be used ({exc}): "
            f"make it a folder that you can write, or set HEADRACE_HOME to another"
        ) from exc


@contextlib.contextmanager
def _locked(layout: Layout, progress: Progress) -> Iterator[None]:
    # The kernel drops the lock with its holder, so a killed worker leaves none behind.
    with layout.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that starts or stops the broker")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find(layout: Layout) -> psutil.Process | None:
    recorded = recorded_process(read_record(layout.record), layout.marker)
    return recorded or unrecorded_process(layout.marker)


def _remember(layout: Layout, process: psutil.Process, port: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        write_record(layout.record, Record(process.pid, port, process.create_time()))


def _port_of(process: psutil.Process, layout: Layout) -> int:
    record = read_record(layout.record)
    if record is not None and record.pid == process.pid:
        return record.port
    ports = known_ports(layout)
    if ports is None:
        raise BrokerError(
            f"a broker (pid {process.pid}) runs on {layout.root} but the files that tell its port "
            f"were deleted: stop it with 'faust -A app broker stop' and start again"
        )
    return ports.client


def _end(process: psutil.Process, timeout_s: float) -> None:
    for send, patience_s in ((process.terminate, timeout_s), (process.kill, 10.0)):
        with contextlib.suppress(psutil.NoSuchProcess):
            send()
        if await_end(process, patience_s):
            return
    raise BrokerError(f"the broker (pid {process.pid}) does not end: see what holds its disk")


def _disk_used(folder: Path) -> int:
    used = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # Kafka deletes segments meanwhile
            used += path.stat().st_blocks * 512
    return used
