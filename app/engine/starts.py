"""Brings a set of tasks from wherever they are to RUNNING: one path for assignment and abort.

After a failed commit nobody needs to know how the transaction ended: the broker does. The
stores catch up with the changelog, the committed offsets are read, and both say the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import confluent_kafka as ck

from app.engine.clock import Clock
from app.engine.counts import Counts, declared_in, decode_metadata
from app.engine.declared import Since, begun_anew, since_at
from app.engine.epoch import TaskId
from app.engine.lanes import Lanes
from app.engine.progress import Progress
from app.engine.restore import (
    RestoreCancelledError,
    RestoreError,
    Restorer,
    StartPoint,
)
from app.engine.spec import EngineConfig
from app.engine.store import Store, StoreError
from app.engine.task import Task

logger = logging.getLogger(__name__)

_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a task goes on, agreed by group, changelog and store.

    ``since``: what is in force since when; ``anew``: tables that begin here, with nothing kept.
    """

    position: int
    lanes: Lanes
    counts: Counts
    since: Since = field(default_factory=dict)
    anew: Mapping[str, int] = field(default_factory=dict)


class Starter:
    """Restores tasks in a thread; a newer assignment cancels an older restore."""

    def __init__(self, config: EngineConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._restorer = Restorer(config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="restore")
        self._cancel = threading.Event()
        self.progress = Progress(clock)

    def cancel(self) -> None:
        """Make a restore under way give up soon."""
        self._cancel.set()

    async def starts(self, tasks: Sequence[Task]) -> Mapping[TaskId, Start] | None:
        """Start of each task, tried until the broker answers; None when cancelled."""
        self._cancel.set()
        cancel = self._cancel = threading.Event()
        progress = self.progress = Progress(self._clock)
        began, attempt = self._clock.monotonic(), 0
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    found = await loop.run_in_executor(
                        self._thread, self._restore, tasks, progress, cancel.is_set
                    )
                except RestoreCancelledError:
                    return None
                except (RestoreError, StoreError, ck.KafkaException) as exc:
                    wait = _BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)]
                    attempt += 1
                    logger.warning("cannot restore yet (next try in %.1f s): %s", wait, exc)
                    progress.explain(str(exc))
                    await asyncio.sleep(wait)
                else:
                    logger.info(
                        "restored %d partitions, %d changelog records, in %.2f s",
                        len(tasks),
                        progress.records,
                        self._clock.monotonic() - began,
                    )
                    return found
        finally:
            progress.end()

    def _restore(
        self, tasks: Sequence[Task], progress: Progress, cancelled: Callable[[], bool]
    ) -> Mapping[TaskId, Start]:
        for each in tasks:
            if each.store is not None and each.store.damaged:
                logger.warning("%s: its state is set aside and rebuilt from the changelog", each.id)
                each.store.reset()
        points = self._restorer.start_points((t.id for t in tasks), progress, cancelled)
        stores = {
            task.id: (self._config.physical(task.spec.changelog or ""), task.store)
            for task in tasks
            if task.store is not None
        }
        self._restorer.catch_up(stores, progress, cancelled)
        apart = {
            task: (topic, store)
            for task, (topic, store) in stores.items()
            if store.positions().source != points[task].committed
        }
        if apart:
            for task, (_, store) in apart.items():
                logger.warning(
                    "%s: state stands at %s, the group at %s: rebuilt from the changelog",
                    task,
                    store.positions().source,
                    points[task].committed,
                )
                store.reset()
            self._restorer.catch_up(apart, progress, cancelled)
        return {task.id: _start(task, points[task.id]) for task in tasks}

    async def idle(self, deadline_s: float) -> None:
        """Wait until the thread touches no store any more, or until then (loop time).

        A broker that does not answer holds it for longer; what it does then fails.
        """
        loop = asyncio.get_running_loop()
        passed = loop.run_in_executor(self._thread, lambda: None)
        await asyncio.wait([passed], timeout=deadline_s - loop.time())

    def close(self) -> None:
        """Stop the thread."""
        self._cancel.set()
        self._thread.submit(self._restorer.close)
        self._thread.shutdown(wait=False)


def _start(task: Task, point: StartPoint) -> Start:
    """Where the task goes on. Of what it declares anew, nothing is left in its store."""
    position = _position(task.id, task.store, point)
    declared = task.spec.declared
    known = declared_in(point.metadata)
    since = since_at(declared.values(), known, position)
    anew = set(begun_anew(declared.values(), known))
    tables = [table.identity for table in task.spec.tables if table.identity in anew]
    if task.store is not None and tables:
        # Its rows may have come back with the changelog, or lain in a store of long ago.
        task.store.clear(tables)
    if anew:
        logger.info(
            "%s: declared anew, or otherwise than before: %s; counted from offset %d on, and "
            "nothing that was kept under a former declaration is read",
            task.id,
            ", ".join(sorted(name for name, identity in declared.items() if identity in anew)),
            position,
        )
    lanes, counts = decode_metadata(point.metadata)
    return Start(position, lanes, counts, since, dict.fromkeys(tables, position))


def _position(task: TaskId, store: Store | None, point: StartPoint) -> int:
    """Where to read on. State, where there is any, is the truth: it holds what it holds."""
    wanted = point.committed if store is None else store.positions().source
    if wanted is not None and wanted != point.committed:
        logger.warning(
            "%s: goes on at %d, where its state stands, not at the committed %s",
            task,
            wanted,
            point.committed,
        )
    if wanted is None:
        return point.log_start
    if wanted < point.log_start:
        logger.error(
            "%s: records %d to %d were removed by the topic's retention before they were "
            "read; raise its retention, or add workers",
            task,
            wanted,
            point.log_start - 1,
        )
        return point.log_start
    return wanted
