"""Reads changelogs to their end in a process of its own; prints what memory that took."""

from __future__ import annotations

import sys
from pathlib import Path

from app.engine.clock import SystemClock
from app.engine.epoch import TaskId
from app.engine.progress import Progress
from app.engine.restore import Restorer
from app.engine.spec import EngineConfig
from app.engine.standby_tail import Tail
from app.engine.stores import Stores
from tests.engine.rig import counting_agent, engine_config


def memory_bytes(name: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (at most so far) of this process."""
    told = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in told if line.startswith(name)).split()[1]) << 10


def restore(config: EngineConfig, tasks: list[TaskId]) -> None:
    """As a worker does with partitions it is given."""
    agent = counting_agent()
    stores, opened = Stores(config), {}
    for task in tasks:
        store = stores.take(task, agent)
        assert store is not None
        opened[task] = (config.physical("source-changelog"), store)
    restorer = Restorer(config)
    restorer.catch_up(opened, Progress(SystemClock()), lambda: False)
    restorer.close()
    for _, store in opened.values():
        store.close()


def follow(config: EngineConfig, tasks: list[TaskId]) -> None:
    """As a worker does with partitions of others, until all are current."""
    tail = Tail(config, {"source": counting_agent()}, Stores(config), SystemClock())
    wanted = frozenset(tasks)
    while any(each.current_at_s is None for each in tail.step(wanted).values()):
        pass
    tail.begin_again()


def main(kind: str, bootstrap: str, namespace: str, partitions: int, folder: Path) -> None:
    """Print the bytes of memory more than before."""
    config = engine_config(
        folder,
        bootstrap=bootstrap,
        physical=lambda topic: f"{namespace}.{topic}",
        state_memory_bytes=8 << 20,
    )
    tasks = [TaskId("source", partition) for partition in range(partitions)]
    before = memory_bytes("VmRSS")
    {"restore": restore, "standby": follow}[kind](config, tasks)
    sys.stdout.write(f"{memory_bytes('VmHWM') - before}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
