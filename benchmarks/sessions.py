"""A million open sessions in one worker: its memory, its speed, and how quickly it answers."""

from __future__ import annotations

import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import msgspec

from agents.sessions.agent import sessions_agent
from agents.topics import LOG_EVENTS, SESSION_PARTIALS, WINDOW_PARTIALS
from app.engine.counts import Counts
from app.engine.epoch import TaskId
from app.engine.lanes import Lanes
from app.engine.layers import CommittedRows
from app.engine.store import Positions, Store
from app.engine.store_memory import StoreMemory
from app.engine.task import Task
from app.models.event import LogEvent, encode_event
from benchmarks.broker import BenchBroker, reached
from benchmarks.engine_run import PARTITIONS, QUIET_S, new_cluster
from benchmarks.load import START_MS, Backlog
from benchmarks.process import peak_rss_mb, usage
from benchmarks.timed import MissedError
from tables.sessions.answer import active_sessions, session_answer
from tables.sessions.config import load_sessions
from tables.sessions.rows import UserSessions
from tables.sessions.spec import SessionSpec
from tables.sessions.state import Session
from tests.system.harness import CHECKOUT, Cluster, Worker

USERS = 1_000_000
RSS_MB_MAX = 600.0
EVENTS_PER_EVENT_MINUTE = 200_000
LOOKUPS = 2_000
HTTP_P99_MS_MAX = 50.0
IN_PROCESS_P99_MS_MAX = 1.0
STORED_USERS = 200_000
TIMEOUT_S = 600.0
_ID = "00000048-0000-4000-8000-%012x"


class Visitors:
    """One event each of so many users, within a few minutes: all of them stay open."""

    def __init__(self, users: int) -> None:
        self.users = users

    def generate(self) -> Iterator[tuple[bytes, bytes]]:
        """``(key, value)`` of each event."""
        for number in range(self.users):
            event = LogEvent(
                event_id=_ID % number,
                timestamp=START_MS + number * 60_000 // EVENTS_PER_EVENT_MINUTE,
                source="shop",
                service=f"service-{number % 16}",
                type="http_request",
                endpoint=f"/product/{number % 50}",
                method="GET",
                status=200,
                latency_ms=5.0,
                user_id=f"user-{number}",
            )
            yield event.service.encode(), encode_event(event)


def bench_a48_8_active_lookup(broker: BenchBroker, users: int = USERS) -> str:
    """A48.8 and the memory of a worker with so many open sessions. Raises when one is missed."""
    in_process_ms = _in_process_p99_ms()
    cluster = new_cluster(broker)
    worker = cluster.worker(HEADRACE_COLLECT="0", HEADRACE_DEMO="0")
    try:
        worker.ready()
        backlog = Backlog(broker.bootstrap, cluster.topic(LOG_EVENTS), gated=True)
        backlog.write(Visitors(users).generate())
        ends = broker.ends(cluster.topic(LOG_EVENTS), PARTITIONS)
        time.sleep(QUIET_S)
        began = usage(worker.process.pid)
        backlog.release()
        _drained(broker, cluster, worker, ends)
        ended = usage(worker.process.pid)
        opened = _open_sessions(worker)
        lookups = sorted(_lookup_ms(worker, users) for _ in range(LOOKUPS))
        rss_mb = peak_rss_mb(worker.process.pid)
    finally:
        worker.stop()
    said = (
        f"sessions: {opened:,} open of {users:,}, peak {rss_mb:.0f} MiB (allowed "
        f"{RSS_MB_MAX:.0f}); opened in {ended.at - began.at:.1f} s, "
        f"{users / (ended.cpu_s - began.cpu_s):,.0f} a CPU second\n"
        f"A48.8: active lookup p99 {in_process_ms:.3f} ms in process (allowed "
        f"{IN_PROCESS_P99_MS_MAX:.0f}), over HTTP median {lookups[LOOKUPS // 2]:.1f} ms, p99 "
        f"{lookups[LOOKUPS * 99 // 100]:.1f} ms (allowed {HTTP_P99_MS_MAX:.0f})"
    )
    if (
        opened != users
        or rss_mb > RSS_MB_MAX
        or in_process_ms > IN_PROCESS_P99_MS_MAX
        or lookups[LOOKUPS * 99 // 100] > HTTP_P99_MS_MAX
    ):
        raise MissedError(f"missed: {said}")
    return said


def _drained(broker: BenchBroker, cluster: Cluster, worker: Worker, ends: dict[int, int]) -> None:
    topics = tuple(cluster.topic(t) for t in (LOG_EVENTS, WINDOW_PARTIALS, SESSION_PARTIALS))
    group = f"{cluster.namespace}.headrace"
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if worker.process.poll() is not None:
            raise MissedError(f"the worker ended:\n{worker.tail()}")
        source, *merged = broker.committed(group, topics, PARTITIONS)
        if reached(source, ends) and all(
            reached(offsets, broker.ends(topic, PARTITIONS), slack=1)
            for topic, offsets in zip(topics[1:], merged, strict=True)
        ):
            return
        time.sleep(0.1)
    raise MissedError(f"the backlog was not committed in {TIMEOUT_S:.0f} s:\n{worker.tail()}")


def _open_sessions(worker: Worker) -> int:
    status, answer = worker.get("/api/v1/sessions/analytics")
    if status != 200 or answer["partial"]:
        raise MissedError(f"analytics: {status} {answer}")
    return int(answer["open"])


def _lookup_ms(worker: Worker, users: int) -> float:
    user = f"user-{random.randrange(users)}"  # noqa: S311 - load
    url = f"http://127.0.0.1:{worker.port}/api/v1/sessions/active/{user}"
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=10) as reply:
        body = reply.read()
    taken_ms = (time.perf_counter() - began) * 1_000
    if user.encode() not in body:
        raise MissedError(f"{url}: {body[:200]!r}")
    return taken_ms


def _in_process_p99_ms() -> float:
    """A lookup as a worker does it, of rows in RocksDB, most of them not in memory."""
    specs = load_sessions(CHECKOUT / "config" / "sessions.yaml")
    agent, spec = sessions_agent(specs), specs[0]
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        families = [table.identity for table in agent.tables]
        store = Store.open(Path(folder) / "0", families, StoreMemory(64 << 20))
        try:
            task = Task(TaskId(SESSION_PARTIALS, 0), agent, store, MappingProxyType({}))
            task.start(0, Lanes(), Counts())
            _store_users(store, spec)
            rows = CommittedRows(task.layers[spec.table_name])
            taken = sorted(_one_lookup_ms(rows, spec) for _ in range(20 * LOOKUPS))
        finally:
            store.close()
    return taken[len(taken) * 99 // 100]


def _store_users(store: Store, spec: SessionSpec) -> None:
    table = spec.table()
    for first in range(0, STORED_USERS, 10_000):
        changes: dict[bytes, bytes | None] = {
            b"user-%d" % n: table.aggregate.encode(
                UserSessions(1, (Session(START_MS, START_MS + n, 3, 3, (), ("",), START_MS),))
            )
            for n in range(first, first + 10_000)
        }
        store.write({table.identity: changes}, Positions())


def _one_lookup_ms(rows: CommittedRows, spec: SessionSpec) -> float:
    user = f"user-{random.randrange(STORED_USERS)}"  # noqa: S311 - load
    began = time.perf_counter()
    row = rows.get(user.encode())
    found = active_sessions(spec, row, START_MS) if row is not None else ()
    msgspec.json.encode([session_answer(spec, user, each) for each in found])
    taken_ms = (time.perf_counter() - began) * 1_000
    if len(found) != 1:
        raise MissedError(f"{user} has no active session")
    return taken_ms
