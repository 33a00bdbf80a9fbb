"""What a process has used, as the kernel counts it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """``at``: monotonic seconds; ``cpu_s``: user and system of all threads since the start."""

    at: float
    cpu_s: float


def usage(pid: int) -> Usage:
    """CPU of a process now. Raises :class:`psutil.NoSuchProcess` when it has ended."""
    times = psutil.Process(pid).cpu_times()
    return Usage(time.monotonic(), times.user + times.system)


def peak_rss_mb(pid: int) -> float:
    """Most memory the process has had resident, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"the kernel does not tell the peak memory of process {pid}")
    return int(found[1]) / 1024


def machine() -> str:
    """CPU model, cores and memory in one line."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"model name\s*:\s*(.+)", info)
    name = model[1].strip() if model else "unknown CPU"
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB"
