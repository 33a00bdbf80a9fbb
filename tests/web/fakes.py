"""In-memory implementation of the Queries port, and a worker's web server around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from app.engine.batch import Headers
from app.engine.chunks import LaneMark
from app.engine.driver import ManualClock
from app.engine.partitioner import partition_for
from app.engine.query import (
    CommitListener,
    ConsumerRow,
    LedgerRow,
    NotOwnedError,
    NotReadyError,
    Owner,
)
from app.models.event import LogEvent
from app.settings import Settings
from tables.histogram import bucket
from tables.history.place import Place
from tables.history.reader import History
from tables.lanes import LANES_TABLE
from tables.windows.keys import row_key
from tables.windows.spec import ErrorsWhen, WindowSpec
from tables.windows.stats import WindowStats, encode_stats
from web.entities.comparing import Latest
from web.entities.room import EntityRoom
from web.gateway.body import AUTO_DECOMPRESS
from web.gateway.logs import LogsGateway
from web.live.feed import LiveFeed
from web.queries.archive import Archive
from web.queries.sessions import SessionRoom
from web.runner import ProblemRunner
from web.server import WebDeps, install

MINUTE = 60_000
NOW = 1_790_000_040_000
"""A whole minute."""
PARTITIONS = 4
LANE = "0/"

SPEC = WindowSpec(
    name="requests_per_endpoint",
    topic="log-events",
    kind="tumbling",
    size_ms=MINUTE,
    grace_ms=30_000,
    key="endpoint",
    value="latency_ms",
    errors=ErrorsWhen(500),
)

ERRORS = WindowSpec(
    name="errors_per_endpoint",
    topic="log-events",
    kind="hopping",
    size_ms=5 * MINUTE,
    advance_ms=MINUTE,
    grace_ms=30_000,
    key="endpoint",
    errors=ErrorsWhen(400),
    codes=True,
)
TRENDS = WindowSpec(
    name="trends_per_service",
    topic="log-events",
    kind="sliding",
    size_ms=15 * MINUTE,
    sizes_ms=(MINUTE, 5 * MINUTE, 15 * MINUTE),
    advance_ms=10_000,
    grace_ms=30_000,
    key="service",
    value="latency_ms",
    errors=ErrorsWhen(500),
    global_row=True,
)
SPECS = (SPEC, ERRORS, TRENDS)
NO_HISTORY = Path("/nonexistent/history")


def stats_of(latencies_ms: Sequence[float], errors: int = 0) -> WindowStats:
    """State of a window that saw these latencies."""
    micros = [round(each * 1000) for each in latencies_ms]
    hist: dict[int, int] = {}
    for value in micros:
        hist[bucket(value)] = hist.get(bucket(value), 0) + 1
    return WindowStats(
        count=len(micros),
        errors=errors,
        n=len(micros),
        sum=sum(micros),
        min=min(micros, default=None),
        max=max(micros, default=None),
        hist=hist,
        lanes=(LANE,),
        updated_ms=NOW,
        sumsq=sum(value * value for value in micros),
    )


class MemoryTable:
    """Committed rows kept in a dict."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Any] = {}

    def get(self, key: bytes) -> Any | None:
        return self.rows.get(key)

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        keys = sorted(k for k in self.rows if k >= lo and (hi is None or k < hi))
        if reverse:
            keys.reverse()
        return iter([(key, self.rows[key]) for key in keys[:limit]])

    def stored(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        rows = self.range(lo, hi, limit=limit, reverse=reverse)
        return ((key, encode_stats(state)) for key, state in rows)


class CommittedMeanwhile(MemoryTable):
    """Rows that a commit changes as soon as they were read."""

    def __init__(self, commit: Callable[[], None]) -> None:
        super().__init__()
        self._commit = commit

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        found = list(super().range(lo, hi, limit=limit, reverse=reverse))
        if found:
            self._commit()
        return iter(found)


@dataclass
class Cluster:
    """Rows of every partition, and which worker owns it (None: nobody at the moment)."""

    owners: dict[int, str | None]
    urls: dict[str, str] = field(default_factory=dict)
    tables: dict[tuple[int, str], MemoryTable] = field(default_factory=dict)
    restoring: set[int] = field(default_factory=set)
    standbys: dict[str, set[int]] = field(default_factory=dict)
    listeners: dict[str, list[CommitListener]] = field(default_factory=dict)
    stalled: dict[str, str] = field(default_factory=dict)
    """What stands still, by worker."""
    alerts: dict[str, str] = field(default_factory=dict)
    """What is wrong although everything moves, by worker."""
    unwritten: dict[str, str] = field(default_factory=dict)
    """Why the history is not written, by worker."""

    def table(self, partition: int, name: str) -> MemoryTable:
        return self.tables.setdefault((partition, name), MemoryTable())

    def put(self, key: str, start_ms: int, stats: WindowStats, window: str = SPEC.name) -> int:
        """Commit a row; its owner's listeners hear of it. Returns its partition."""
        partition = partition_for(key.encode(), PARTITIONS)
        raw = row_key(key, start_ms)
        self.table(partition, window).rows[raw] = stats
        if window != SPEC.name:
            return partition
        for listener in self.listeners.get(self.owners[partition] or "", ()):
            listener(partition, {raw: stats})
        return partition

    def mark(self, watermark_ms: int) -> None:
        """Every partition knows the live lane to have come this far."""
        for partition in range(PARTITIONS):
            mark = LaneMark(seen_ms=NOW, watermark_ms=watermark_ms, idle=False)
            for source in range(PARTITIONS):
                self.table(partition, LANES_TABLE).rows[f"{source}/".encode()] = mark


def cluster_of(*workers: str) -> Cluster:
    """Partitions dealt out in turn."""
    return Cluster({p: workers[p % len(workers)] for p in range(PARTITIONS)})


@dataclass
class MemoryReplica:
    """What a worker has of a partition: here, the same rows as everybody."""

    cluster: Cluster
    partition: int
    role: Literal["active", "standby"]
    staleness_ms: int
    position: int | None = 42

    def table(self, name: str) -> MemoryTable:
        return self.cluster.table(self.partition, name)


class MemoryQueries:
    """One worker's view of the cluster."""

    def __init__(self, worker: str, cluster: Cluster) -> None:
        self._worker = worker
        self._cluster = cluster

    @property
    def worker(self) -> str:
        return self._worker

    def owner(self, topic: str, key: bytes) -> Owner:
        return self._owner(topic, partition_for(key, PARTITIONS))

    def owners(self, topic: str) -> list[Owner]:
        return [self._owner(topic, partition) for partition in range(PARTITIONS)]

    def _owner(self, topic: str, partition: int) -> Owner:
        assert topic in ("window-partials", SPEC.topic)
        owner = self._cluster.owners[partition]
        return Owner(partition, self._cluster.urls.get(owner or ""), owner == self._worker)

    def table(self, topic: str, partition: int, name: str) -> MemoryTable:
        if not self._owner(topic, partition).local:
            raise NotOwnedError(f"{partition} is elsewhere")
        if partition in self._cluster.restoring:
            raise NotReadyError(f"{partition} is being restored")
        return self._cluster.table(partition, name)

    def staleness_ms(self, topic: str, partition: int) -> int:
        self.table(topic, partition, SPEC.name)
        return 7

    def replica(self, topic: str, partition: int) -> MemoryReplica:
        if partition in self._cluster.standbys.get(self._worker, ()):
            return MemoryReplica(self._cluster, partition, "standby", staleness_ms=250)
        self.table(topic, partition, SPEC.name)
        return MemoryReplica(self._cluster, partition, "active", staleness_ms=7)

    def standbys(self, topic: str, partition: int) -> list[str]:
        assert topic in ("window-partials", SPEC.topic)
        return [
            self._cluster.urls[worker]
            for worker, partitions in sorted(self._cluster.standbys.items())
            if partition in partitions and worker != self._worker
        ]

    def ready(self) -> tuple[bool, str]:
        mine = [p for p, owner in self._cluster.owners.items() if owner == self._worker]
        waiting = [p for p in mine if p in self._cluster.restoring]
        return (not waiting, f"restoring {waiting}" if waiting else "ready")

    def ledger(self) -> list[LedgerRow]:
        return []

    def consumers(self) -> list[ConsumerRow]:
        return []

    def live(self) -> tuple[bool, str]:
        stalled = self._cluster.stalled.get(self._worker, "")
        return not stalled, stalled

    def on_commit(self, topic: str, table: str, listener: CommitListener) -> None:
        assert (topic, table) == ("window-partials", SPEC.name)
        self._cluster.listeners.setdefault(self._worker, []).append(listener)


@dataclass
class RecordingSink:
    """Keeps what it is sent; ``failure`` is raised instead when set."""

    sent: list[tuple[str, LogEvent]] = field(default_factory=list)
    failure: Exception | None = None

    async def send(self, topic: str, events: Sequence[LogEvent], headers: Headers = ()) -> None:
        assert not headers
        if self.failure is not None:
            raise self.failure
        self.sent += [(topic, event) for event in events]


class NoEntities:
    """Behind the entities' endpoints, which are tested in a room of their own."""

    async def produce(self, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
        raise AssertionError(f"{len(records)} records for {topic}")

    def end(self, partition: int) -> int:
        raise AssertionError(partition)

    def read(self, partition: int) -> Latest:
        raise AssertionError(partition)

    async def renew(self) -> int:
        raise AssertionError

    def stop(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


@dataclass
class Clock:
    """A clock that moves when told."""

    now_ms: int = NOW

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Worker:
    """A running web server and what is behind it."""

    client: TestClient[web.Request, web.Application]
    live: LiveFeed
    sink: RecordingSink
    registry: CollectorRegistry
    queries: MemoryQueries

    async def json(self, path: str, status: int = 200) -> Any:
        async with self.client.get(path) as response:
            body = await response.json(content_type=None)
            assert response.status == status, body
            return body


class _WorkerServer(TestServer):
    """Answers what is no HTTP as a worker does, too."""

    async def _make_runner(self, **given: Any) -> ProblemRunner:
        return ProblemRunner(self.app, **given)


@asynccontextmanager
async def running_worker(
    cluster: Cluster | None = None,
    name: str = "w1",
    *,
    clock: Callable[[], int] | None = None,
    rate: int = 50_000,
    overrides: Mapping[str, object] | None = None,
    period_s: float = 3_600,
    history: Place = NO_HISTORY,
) -> AsyncIterator[Worker]:
    """A worker's web server on a free port, known to the cluster by its URL.

    Its feed stands still unless told otherwise: tests make the seconds pass.
    """
    cluster = cluster or cluster_of(name)
    clock = clock or Clock()
    queries, sink, registry = MemoryQueries(name, cluster), RecordingSink(), CollectorRegistry()
    live = LiveFeed(SPEC, queries, clock, period_s, lambda: cluster.alerts.get(name, ""))
    settings = Settings(**(overrides or {}))  # type: ignore[arg-type]
    gateway = LogsGateway(sink, rate, clock, registry)
    app = web.Application()
    no_entities = NoEntities()
    archive = Archive(History(history, ""))
    room = EntityRoom(
        settings,
        queries,
        {},
        no_entities,
        no_entities,
        no_entities.renew,
        ManualClock(NOW),
        registry,
        archive,
    )
    sessions = SessionRoom(queries, (), clock, archive)
    rooms = (room, sessions)
    deps = WebDeps(
        settings,
        queries,
        SPECS,
        gateway,
        live,
        clock,
        registry,
        archive,
        rooms=rooms,
        unwritten=lambda: cluster.unwritten.get(name, ""),
    )
    install(app, deps)
    server = _WorkerServer(app)
    await server.start_server(auto_decompress=AUTO_DECOMPRESS)
    async with TestClient(server) as client:
        cluster.urls[name] = str(server.make_url("")).rstrip("/")
        yield Worker(client, live, sink, registry, queries)
