"""The sampler of a worker: once a second, its own seconds and its peers', as one message.

commit listener -> pending rows -> LiveWindow -> Sample --+
GET /internal/live of each other owner -> Sample ---------+-> message -> hub (pages)
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from aiohttp import web

from app.engine.query import NotOwnedError, NotReadyError, Queries
from tables.windows.keys import parse_row_key
from tables.windows.spec import WindowSpec
from web.live.hub import Hub
from web.live.messages import Point, Push, Report
from web.live.sample import Sample, combine
from web.live.window import LIVE_MS, LiveWindow
from web.peers import PeerError, Peers
from web.problem import json_response
from web.queries.rows import ROWS_SLICE, in_slices, keys_after, newest_rows
from web.queries.scatter import PARTIALS_TOPIC, local_partitions, remote_urls
from web.queries.times import TimeRange

log = logging.getLogger(__name__)

REPORT_PATH: Final = "/internal/live"
PEER_TIMEOUT_S: Final = 0.8
PERIOD_S: Final = 1.0
HISTORY_MAX: Final = 300
PENDING_MAX: Final = 10_000
"""Changed rows kept until the next sample; with more they are taken in at once."""
SEED_ROWS_MAX: Final = 64
ALERT_MAX: Final = 1_000
"""Characters."""


def no_alert() -> str:
    """Nothing is wrong that would have to be told beside the numbers."""
    return ""


class LiveFeed:
    """Follows one window table of this worker and pushes what all workers saw.

    One sampler whatever the number of pages. :meth:`start` and :meth:`stop` on the event
    loop of the web server.
    """

    def __init__(
        self,
        spec: WindowSpec,
        queries: Queries,
        clock: Callable[[], int],
        period_s: float = PERIOD_S,
        alert: Callable[[], str] = no_alert,
    ) -> None:
        """``spec``: the window shown; ``clock`` gives epoch milliseconds.

        ``alert``: what this worker alone knows to be wrong.
        """
        self._period_s = period_s
        self._own_alert = alert
        self._spec = spec
        self._queries = queries
        self._clock = clock
        self._window = LiveWindow(spec.size_ms, clock())
        self._pending: dict[int, dict[bytes, Any]] = {}
        self._pending_count = 0
        self._seeded: set[int] = set()
        self._sample: Sample | None = None
        self._history: deque[Point] = deque(maxlen=HISTORY_MAX)
        self._last = self._loading(0)
        self._task: asyncio.Task[None] | None = None
        self._subscribed = False
        self.hub = Hub(self._greeting)

    async def start(self, peers: Peers) -> None:
        """Listen to commits and begin to sample."""
        if not self._subscribed:
            self._queries.on_commit(PARTIALS_TOPIC, self._spec.name, self.on_commit)
            self._subscribed = True
        if self._task is None:
            self._task = asyncio.create_task(self._run(peers), name="live-feed")

    async def stop(self) -> None:
        """Stop sampling and say goodbye to every page; may be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.hub.close()

    def alert(self) -> str:
        """What any of the workers knows to be wrong, as of the last second; "" for nothing."""
        return self._own_alert() or self._last.alert

    def on_commit(self, partition: int, changes: Mapping[bytes, Any]) -> None:
        """Commit listener: remember the rows, look at them once a second."""
        rows = self._pending.setdefault(partition, {})
        before = len(rows)
        rows.update(changes)
        self._pending_count += len(rows) - before
        if self._pending_count > PENDING_MAX:
            for _ in self._absorb():
                pass

    async def report(self, _request: web.Request) -> web.Response:
        """``GET /internal/live``: this worker's last second, for its peers."""
        ready, _ = self._queries.ready()
        sample = self._sample if ready else None
        now_ms = self._clock()
        return json_response(
            Report(
                worker=self._queries.worker,
                ready=ready,
                age_ms=0 if sample is None else max(0, now_ms - sample.ts),
                staleness_ms=self._staleness_ms() if ready else 0,
                sample=sample,
                alert=self._own_alert(),
            )
        )

    async def tick(self, peers: Peers) -> Push:
        """One second's work: sample, ask the peers, push. Returns what was pushed."""
        ready, _ = self._queries.ready()
        seq = self._last.seq + 1
        if not ready:
            self._last = self._loading(seq)
        else:
            await self._seed()
            urls = remote_urls(self._queries.owners(PARTIALS_TOPIC))
            reports = await asyncio.gather(*(self._ask(peers, url) for url in urls))
            await self._take_in()
            self._last = self._combined(seq, [each for each in reports if each], len(urls))
        self.hub.push(msgspec.json.encode(self._last).decode())
        return self._last

    async def _run(self, peers: Peers) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # A late tick does not make the following ones come in a burst.
            due = max(due + self._period_s, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                await self.tick(peers)
            except Exception:
                # The page shows that it is stale; the feed must live on.
                log.exception("the live feed missed a second")

    def _combined(self, seq: int, reports: list[Report], asked: int) -> Push:
        now_ms = self._clock()
        own = self._sample = self._window.sample(now_ms)
        # In a rebalance this worker may be named as an owner before it has the partition.
        answered = [
            each
            for each in reports
            if each.sample is not None and each.worker != self._queries.worker
        ]
        samples = [own, *(each.sample for each in answered if each.sample is not None)]
        figures = combine(samples)
        self._history.append(Point(now_ms, figures.rate, figures.error_rate, figures.p95_ms))
        moving = any(
            owner.url is None and not owner.local for owner in self._queries.owners(PARTIALS_TOPIC)
        )
        return Push(
            seq=seq,
            ts=now_ms,
            state="live",
            worker=self._queries.worker,
            workers=1 + len(answered),
            staleness_ms=max(
                [self._staleness_ms(), *(each.age_ms + each.staleness_ms for each in answered)]
            ),
            partial=moving or len(answered) < asked or any(sample.truncated for sample in samples),
            data=figures,
            alert=next(filter(None, (self._own_alert(), *(each.alert for each in reports))), "")[
                :ALERT_MAX
            ],
        )

    def _loading(self, seq: int) -> Push:
        return Push(
            seq=seq,
            ts=self._clock(),
            state="loading",
            worker=self._queries.worker,
            workers=0,
            staleness_ms=0,
            partial=True,
            alert=self._own_alert(),
        )

    def _greeting(self) -> str:
        first = msgspec.structs.replace(self._last, history=list(self._history))
        return msgspec.json.encode(first).decode()

    @staticmethod
    async def _ask(peers: Peers, url: str) -> Report | None:
        try:
            answer = await peers.get(url, REPORT_PATH, PEER_TIMEOUT_S)
            return msgspec.json.decode(answer.body, type=Report) if answer.status == 200 else None
        except (PeerError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _staleness_ms(self) -> int:
        oldest = 0
        for partition in local_partitions(self._queries):
            with suppress(NotReadyError, NotOwnedError):
                oldest = max(oldest, self._queries.staleness_ms(PARTIALS_TOPIC, partition))
        return oldest

    async def _take_in(self) -> None:
        """Take in what was committed in the last second, giving the event loop turns."""
        for rows in (self._absorb(), self._window.prepare()):
            async for _ in in_slices(rows, ROWS_SLICE):
                pass

    def _absorb(self) -> Iterator[None]:
        """Take in the committed rows there are now, one at a time.

        Those of a partition not yet seeded are its base line. Between two of them more may be
        committed, also of a row that waits: it is taken in as it is then.
        """
        now_ms, left = self._clock(), self._pending_count
        for partition, rows in list(self._pending.items()):
            while rows and left:
                left -= 1
                self._pending_count -= 1
                raw, stats = rows.popitem()
                key, start_ms = parse_row_key(raw)
                if stats is not None and partition not in self._seeded:
                    self._window.seed(partition, key, start_ms, stats, now_ms)
                else:
                    self._window.apply(partition, key, start_ms, stats, now_ms)
                yield

    async def _seed(self) -> None:
        """Learn what partitions held before they were followed; forget those that left."""
        local = set(local_partitions(self._queries))
        for partition in self._seeded - local:
            self._window.forget(partition)
        self._seeded &= local
        for partition in sorted(local - self._seeded):
            try:
                await self._seed_partition(partition)
            except (NotReadyError, NotOwnedError):
                continue
            for _ in self._absorb():
                pass
            self._seeded.add(partition)

    async def _seed_partition(self, partition: int) -> None:
        def table() -> Any:
            return self._queries.table(PARTIALS_TOPIC, partition, self._spec.name)

        wanted = TimeRange(max(0, self._clock() - LIVE_MS - self._spec.size_ms), None)
        async for key in in_slices(keys_after(table, None, wanted.from_ms or 0)):
            now_ms = self._clock()
            for start_ms, stats in newest_rows(table(), key, wanted, SEED_ROWS_MAX):
                self._window.seed(partition, key, start_ms, stats, now_ms)
