"""A worker's own folder and web port, found without configuration.

Workers of one machine share the state folder; each takes the first free slot of
``workers/`` and holds its lock for as long as it lives. A slot's id outlives the worker,
so the transaction a killed worker left open is ended by whoever takes the slot next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

SLOTS_MAX = 64
WEB_PORT = 6066
BACKLOG = 128


class StartUpError(Exception):
    """The worker cannot start; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A taken slot. The lock is held until the process ends."""

    number: int
    folder: Path
    worker_id: str


_held: list[int] = []


def take_slot(home: Path) -> Slot:
    """First free worker folder of the state folder."""
    for number in range(SLOTS_MAX):
        folder = home / "workers" / str(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as exc:
            raise StartUpError(
                f"cannot write the state folder {home}: {exc.strerror}; "
                "make it writable or set HEADRACE_HOME to a folder that is"
            ) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _held.append(lock)
        return Slot(number, folder, _worker_id(folder / "id"))
    raise StartUpError(
        f"{SLOTS_MAX} workers already run on {home}; stop one or set another HEADRACE_HOME"
    )


def _worker_id(path: Path) -> str:
    try:
        known = path.read_text().strip()
        if known:
            return known
    except FileNotFoundError:
        pass
    made = uuid.uuid4().hex[:12]
    try:
        path.write_text(made)
    except OSError as exc:
        raise StartUpError(f"cannot write {path}: {exc.strerror}; free some space") from exc
    return made


def web_socket(bind: str, wanted: int | None) -> socket.socket:
    """A listening socket on the wanted port; without a wish, on the first free one from 6066 on.

    It listens at once: a port that is only looked at could go to a worker started beside.
    """
    candidates = [wanted] if wanted is not None else range(WEB_PORT, WEB_PORT + SLOTS_MAX)
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    for port in candidates:
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((bind, port))
            taken.listen(BACKLOG)
        except PermissionError as exc:
            taken.close()
            raise StartUpError(f"web port {port} needs privileges; set HEADRACE_WEB_PORT") from exc
        except OSError as exc:
            taken.close()
            if exc.errno == errno.EADDRINUSE:
                continue
            raise StartUpError(
                f"cannot listen on {bind}:{port}: {exc.strerror}; set HEADRACE_WEB_BIND"
            ) from exc
        return taken
    if wanted is not None:
        raise StartUpError(
            f"web port {wanted} on {bind} is taken; stop what uses it or set HEADRACE_WEB_PORT"
        )
    raise StartUpError(f"no free web port from {WEB_PORT} on; set HEADRACE_WEB_PORT")


def static_socket(slot: Slot, bind: str, wanted: int | None) -> socket.socket:
    """A listening socket on the wanted port, else on that of the slot's worker before.

    A static member comes back where the others know it; elsewhere it would be another member.
    """
    path = slot.folder / "port"
    taken: socket.socket | None = None
    if wanted is None:
        # What cannot be listened on is no loss: the slot begins anew elsewhere.
        with contextlib.suppress(FileNotFoundError, ValueError, StartUpError):
            former = int(path.read_text())
            taken = web_socket(bind, former) if 0 < former < 1 << 16 else None
    taken = taken or web_socket(bind, wanted)
    try:
        path.write_text(str(taken.getsockname()[1]))
    except OSError as exc:
        raise StartUpError(f"cannot write {path}: {exc.strerror}; free some space") from exc
    return taken
