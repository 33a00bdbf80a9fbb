"""The commit loop: takes an epoch, writes it in a thread, settles it or says it failed.

At most one epoch is in flight. The next is taken as soon as that one is done and there is
work, but not so often that commits would eat the worker or the broker, and no epoch with work
stays open longer than the commit interval, unless work is late (:mod:`app.engine.pacing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from app.engine.clock import Clock
from app.engine.epoch import Epoch, GatherError, TaskId
from app.engine.metrics import EngineMetrics
from app.engine.pacing import epoch_s, normal_s
from app.engine.store import Positions, Store, StoreError
from app.engine.transaction import CommitFailedError, Probe, Writer, Written

logger = logging.getLogger(__name__)

T = TypeVar("T")
Failure = CommitFailedError | StoreError | GatherError
"""Why an epoch is not kept."""


class EpochOwner(Protocol):
    """Who fills epochs: the engine."""

    @property
    def behind_s(self) -> float:
        """Seconds that the work which waits will take."""
        ...

    async def on_time(self) -> None:
        """Give event time its say in the open epoch."""
        ...

    def take(self) -> Epoch | None:
        """Freeze the open epoch; None when it holds nothing."""
        ...

    def stores(self) -> Mapping[TaskId, Store]:
        """Stores of the tasks."""
        ...

    def settle(self, epoch: Epoch, written: Written) -> None:
        """The epoch is committed and stored."""
        ...

    def commit_failed(self, error: Failure) -> None:
        """The epoch failed; nothing uncommitted may be kept."""
        ...


def as_failure(exc: BaseException) -> Failure:
    """Errors of writers, stores and what was gathered as they are, others as a failed commit."""
    if isinstance(exc, CommitFailedError | StoreError):
        return exc
    logger.error("the epoch ended in an unforeseen way", exc_info=exc)
    if isinstance(exc, GatherError):
        return exc
    return CommitFailedError(repr(exc), membership_lost=False, producer_dead=False)


def _given_up() -> CommitFailedError:
    return CommitFailedError(
        "not done in time for the hand-over", membership_lost=False, producer_dead=False
    )


class Commits:
    """Commits epochs of one owner, one at a time, in offset order."""

    def __init__(
        self,
        owner: EpochOwner,
        writer: Writer,
        clock: Clock,
        metrics: EngineMetrics,
        interval_s: float,
        probe: Probe,
    ) -> None:
        self._owner = owner
        self._writer = writer
        self._clock = clock
        self._metrics = metrics
        self._interval_s = interval_s
        self._probe = probe
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="epochs")
        self._lock = asyncio.Lock()
        self.work = asyncio.Event()
        self._full = asyncio.Event()
        self._taken_at = 0.0
        self._cost_s = 0.0
        self._writing: asyncio.Future[Written] | None = None
        self._given_up = threading.Event()
        self._late = False

    async def open(self) -> None:
        """Register the writer with the broker, ending what a former self left open."""
        await self._in_thread(self._writer.open)

    async def run(self) -> None:
        """Commit for ever."""
        while True:
            await self.work.wait()
            usual_s = normal_s(self._cost_s, self._interval_s)
            span_s = epoch_s(usual_s, self._interval_s, self._owner.behind_s)
            wait_s = self._taken_at + span_s - self._clock.monotonic()
            if wait_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), wait_s)
            await self.commit()

    def hurry(self) -> None:
        """The open epoch is full: commit it as soon as the one in flight is done."""
        self._full.set()
        self.work.set()

    async def commit(self) -> bool:
        """Commit what is open now, after what is in flight. True unless it failed."""
        async with self._lock:
            await self._owner.on_time()
            self.work.clear()
            self._full.clear()
            began = self._taken_at = self._clock.monotonic()
            epoch = self._owner.take()
            if epoch is None:
                return True
            try:
                written = await self._written(epoch)
            except (Exception, asyncio.CancelledError) as exc:
                # Whatever it was: an epoch that is neither settled nor dropped would be
                # skipped by the next one, whose position lies beyond it.
                self._metrics.epochs.labels("failed").inc()
                self._owner.commit_failed(as_failure(exc))
                if isinstance(exc, asyncio.CancelledError):
                    raise
                return False
            self._owner.settle(epoch, written)
            self._metrics.epochs.labels("committed").inc()
            self._metrics.epoch_events.observe(epoch.events)
            self._metrics.commit_seconds.observe(self._clock.monotonic() - began)
            return True

    @contextlib.asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """No epoch is in flight while the body runs."""
        async with self._lock:
            yield

    async def drain(self, deadline_s: float) -> None:
        """Commit what is open; what is not committed by then (loop time) is given up.

        The epoch then counts as failed, though its thread may be at it for as long as a
        transaction lasts, and the broker alone knows how it ends: whoever starts with these
        partitions, here or elsewhere, waits for that.
        """
        deadline = asyncio.get_running_loop().call_at(deadline_s, self._give_up)
        try:
            await self.commit()
        finally:
            deadline.cancel()
            self._late = False

    def _give_up(self) -> None:
        self._late = True
        self._given_up.set()
        if self._writing is not None:
            self._writing.cancel()

    async def _written(self, epoch: Epoch) -> Written:
        if self._late:
            raise _given_up()
        given_up = self._given_up = threading.Event()
        stores = self._owner.stores()
        self._writing = asyncio.get_running_loop().run_in_executor(
            self._thread, self._write, epoch, stores, given_up
        )
        try:
            return await self._writing
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if given_up.is_set() and caller is not None and not caller.cancelling():
                raise _given_up() from None
            raise
        finally:
            self._writing = None

    def _write(
        self, epoch: Epoch, stores: Mapping[TaskId, Store], given_up: threading.Event
    ) -> Written:
        epoch.work_out()
        began = time.thread_time()  # what grows with the records is no cost of the commit
        written = self._writer.commit(epoch, given_up)
        for task, rows in written.rows.items():
            position = Positions(written.changelog.get(task), epoch.tasks[task].position)
            stores[task].write(rows, position, epoch.tasks[task].dropped)
        self._probe("stored")
        self._cost_s = time.thread_time() - began
        return written

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def close(self) -> None:
        """Stop the thread and the producer. Call after the last commit."""
        self._thread.submit(self._writer.close)
        self._thread.shutdown(wait=True)
