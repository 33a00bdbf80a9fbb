"""Standbys: state of partitions another worker owns, kept current from their changelogs.

One thread of the worker does all that blocks or touches a standby's store, one job after
the other: so a store has one user, and once :meth:`Standbys.keep` has returned, what is no
longer a standby is given back, for the task that takes it over. Queries
read on the event loop; what they may see is published and withdrawn there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import confluent_kafka as ck

from app.engine.clock import Clock
from app.engine.effects import TableSpec
from app.engine.epoch import TaskId
from app.engine.metrics import EngineMetrics
from app.engine.query import NotReadyError
from app.engine.restore import RestoreError
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.standby_tail import Standby, Tail
from app.engine.store import Store, StoreError
from app.engine.stores import Stores

logger = logging.getLogger(__name__)

RETRY_S = 1.0

T = TypeVar("T")


class StandbyRows:
    """Rows of one table. Implements :class:`app.engine.query.CommittedTable`."""

    def __init__(self, store: Store, spec: TableSpec) -> None:
        self._store = store
        self._identity = spec.identity
        self._decode = spec.aggregate.decode

    def get(self, key: bytes) -> Any | None:
        """State of the key, or None."""
        raw = self._store.get(self._identity, key)
        return None if raw is None else self._decode(raw)

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        """Rows with ``lo <= key < hi``, at most ``limit``."""
        for key, raw in self._store.range(self._identity, lo, hi, limit=limit, reverse=reverse):
            yield key, self._decode(raw)

    def stored(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same rows, encoded."""
        return self._store.range(self._identity, lo, hi, limit=limit, reverse=reverse)


class Standbys:
    """All standbys of one worker. Methods are called on the event loop."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Mapping[str, AgentSpec],
        stores: Stores,
        clock: Clock,
        metrics: EngineMetrics,
    ) -> None:
        self._tail = Tail(config, specs, stores, clock)
        self._clock = clock
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="standbys")
        self._wanted: frozenset[TaskId] = frozenset()
        self._published: dict[TaskId, Standby] = {}
        self._measured: set[str] = set()
        self._changed = asyncio.Event()

    async def keep(self, wanted: Iterable[TaskId]) -> None:
        """Be a standby of these and no others; the stores of others are given back on return."""
        self._wanted = frozenset(wanted)
        self._publish(self._published)
        await self._in_thread(partial(self._tail.drop, self._wanted))
        self._changed.set()

    async def run(self) -> None:
        """Follow the changelogs for ever."""
        while True:
            if not self._wanted:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                self._publish(await self._in_thread(partial(self._tail.step, self._wanted)))
            except (StoreError, RestoreError, ck.KafkaException) as exc:
                logger.warning("standbys begin again in %.0f s: %s", RETRY_S, exc)
                self._publish({})
                await self._in_thread(self._tail.begin_again)
                await asyncio.sleep(RETRY_S)

    def find(self, task: TaskId) -> Standby | None:
        """A standby that can answer, for now; None where there is none.

        Raises :class:`NotReadyError` for one that has never come to its changelog's end.
        """
        found = self._published.get(task)
        if task in self._wanted and (found is None or found.current_at_s is None):
            raise NotReadyError(f"the standby of {task} is being filled")
        return found

    def staleness_ms(self, standby: Standby) -> int:
        """Time since it was last known to hold all that is committed."""
        since = self._clock.monotonic() if standby.current_at_s is None else standby.current_at_s
        return max(0, round((self._clock.monotonic() - since) * 1000))

    async def close(self) -> None:
        """Give back every store and stop the thread."""
        await self.keep(())
        self._thread.shutdown(wait=True)

    def _publish(self, standbys: Mapping[TaskId, Standby]) -> None:
        # What was opened while another assignment came is closed by the job behind it.
        self._published = {t: each for t, each in standbys.items() if t in self._wanted}
        lags: dict[str, int] = {}
        for task, standby in self._published.items():
            lags[task.topic] = lags.get(task.topic, 0) + standby.lag
        for topic, lag in lags.items():
            self._metrics.standby_lag.labels(topic).set(lag)
        for topic in self._measured - lags.keys():
            self._metrics.standby_lag.remove(topic)
        self._measured = set(lags)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
