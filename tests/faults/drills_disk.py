"""The state folder's disk is full for a while."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.run import Outcome, drill
from tests.system.harness import wait_for

DISK_BYTES = 96 << 20
BLOCK = bytes(64 << 10)
CANNOT_WRITE = "the state in"


def disk_full_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """A worker's disk fills up under load; once there is room again it goes on by itself."""
    disk = home / "a"
    with small_disk(disk), drill("disk full", bootstrap, home, seed, names=()) as run:
        worker = run.workers.add("a")
        run.shared()
        run.until(0.2 + 0.1 * run.draw.random())
        filler = disk / "filler"
        fill(filler)
        run.fault("full")
        wait_for("the worker says that it cannot write", lambda: worker.logged(CANNOT_WRITE))
        assert worker.worker.process.poll() is None
        filler.unlink()
        run.fault("room again")
        run.shared()
    return run.outcome


def fill(path: Path) -> None:
    """Write until the disk is full to the last byte."""
    size = len(BLOCK)
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(BLOCK[:size])
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                size //= 2


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of a few megabytes at ``path``; fails where mounting is not permitted."""
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert mounted.returncode == 0, (
        f"a small disk cannot be mounted ({mounted.stderr.strip()}): run the fault drills as "
        "root, in a container with CAP_SYS_ADMIN"
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
