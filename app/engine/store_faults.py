"""Why RocksDB could not open its files: damage, which a rebuild mends, or a cause outside them."""

from __future__ import annotations

import os
from pathlib import Path

_OUTSIDE = {
    "Too many open files": "raise the limit of open files (ulimit -n), or run more workers",
    "No space left on device": "free some space on its disk",
    "Disk quota exceeded": "free some space on its disk, or raise the quota",
    "Permission denied": "make the folder and its files writable for the worker's user",
    "Read-only file system": "mount its file system so that it can be written",
    "Cannot allocate memory": "give the worker more memory, or lower its state memory",
}
"""What keeps a sound store from being opened, as RocksDB says it, and what to do."""
_LOCKED = "/LOCK: "
_OURS = "current process"


def what_to_do(error: str, path: Path) -> str | None:
    """What mends an opening of the store in ``path`` that failed with RocksDB's ``error``.

    None where the files themselves are at fault: they cannot be trusted, and are rebuilt.
    """
    if not error.startswith("IO error"):
        return None
    for said, advice in _OUTSIDE.items():
        if said in error:
            return advice
    if _LOCKED not in error:
        return None
    if _OURS in error:
        return "this worker has it open already: start the worker anew"
    return (
        f"{_holder(path / 'LOCK')} has it open: stop that one, or give this worker a state folder "
        "of its own"
    )


def _holder(lock: Path) -> str:
    """Who has the lock, as far as the kernel tells (Linux does)."""
    try:
        at = lock.stat()
        told = Path("/proc/locks").read_text()
    except OSError:
        return "another process"
    name = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    for line in told.splitlines():
        fields = line.split()  # 1: POSIX ADVISORY WRITE <pid> <device:inode> 0 EOF
        if name in fields[5:6] and fields[4].isdigit():
            return f"process {fields[4]}"
    return "another process"
