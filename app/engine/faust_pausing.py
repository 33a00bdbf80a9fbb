"""Pauses and resumes partitions of Faust's consumer, and keeps an eye on those paused.

A paused partition keeps the one buffer that was fetched ahead. It is left out of what the
fetch loop asks for, so that nothing of it has to be fetched twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from app.engine.delivery import Delivery
from app.engine.engine import Engine
from app.engine.epoch import TaskId
from app.engine.inbox import FetchBounds, Inbox
from app.engine.task import TaskState

logger = logging.getLogger(__name__)

ROOM_WAIT_S = 0.2
ENDS_TIMEOUT_S = 5.0


class Pausing:
    """What one consumer holds, and which of its partitions wait for room."""

    def __init__(self, engine: Engine, bounds: FetchBounds, thread: Any) -> None:
        """``thread``: Faust's consumer thread, which owns the client."""
        self.inbox = Inbox(bounds.held_bytes)
        self._engine = engine
        self._thread = thread
        self._room = asyncio.Event()
        self._ends: dict[TP, int] = {}

    def _tp(self, task: TaskId) -> TP:
        return TP(self._engine.config.physical(task.topic), task.partition)

    def clear(self) -> None:
        """All partitions begin anew."""
        self.inbox.clear()
        self._ends.clear()

    async def room(self, active: set[TP]) -> bool:
        """Take the paused partitions out of ``active``; whether there is something to fetch.

        When all that were active are paused, some time passes first.
        """
        paused = {self._tp(task) for task in self.inbox.paused}
        active -= paused
        if active and not self.inbox.full:
            return True
        if not paused:
            return True  # nothing is assigned yet
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), ROOM_WAIT_S)
        return False

    def done(self, delivery: Delivery, active: set[TP]) -> None:
        """A delivery was processed or dropped: partitions that have room become active."""
        if delivery.token != self._engine.token:
            return  # its partition was given anew meanwhile, and begins with nothing held
        task_id = TaskId(delivery.batch.topic, delivery.batch.partition)
        task = self._engine.tasks.get(task_id)
        if task is not None and task.state is not TaskState.RUNNING:
            self.inbox.stop(task_id)
        resumed = self.inbox.done(task_id, delivery.size)
        self._room.set()
        if resumed:
            active.update(self._tp(task) for task in resumed)
            self._thread.thread_loop.call_soon_threadsafe(self._fetch_again)

    def _fetch_again(self) -> None:
        """A fetch that waits for other partitions looks at those resumed."""
        fetcher = self._thread._ensure_consumer()._fetcher  # noqa: SLF001 - no accessor
        for waiter in tuple(fetcher._fetch_waiters):  # noqa: SLF001
            fetcher._notify(waiter)  # noqa: SLF001

    def end(self, tp: TP, fetched: int) -> int:
        """End of the committed log; ``fetched``: as the last fetch saw it."""
        return max(fetched, self._ends.get(tp, 0))

    async def look_at_ends(self) -> None:
        """Ask where the logs of paused partitions end: no fetch will tell."""
        paused = [self._tp(task) for task in self.inbox.paused]
        if not paused:
            return
        asked = asyncio.run_coroutine_threadsafe(self._ask(paused), self._thread.thread_loop)
        try:
            ends = await asyncio.wait_for(asyncio.wrap_future(asked), ENDS_TIMEOUT_S)
        except (KafkaError, TimeoutError) as exc:
            logger.info("the ends of paused partitions are not known: %r", exc)
            return
        self._ends |= {TP(tp.topic, tp.partition): at for tp, at in ends.items()}

    async def _ask(self, tps: Iterable[TP]) -> Mapping[TopicPartition, int]:
        consumer = self._thread._ensure_consumer()  # noqa: SLF001
        wanted = [TopicPartition(tp.topic, tp.partition) for tp in tps]
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(wanted)
        return ends
