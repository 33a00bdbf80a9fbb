"""Real workers as processes, real load, and a reference that shares no counting code."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import confluent_kafka as ck

from agents.topics import LOG_EVENTS, WINDOW_CHANGELOG
from app.engine.changelog import parse_record_key
from tables.histogram import bucket
from tables.windows.keys import parse_row_key
from tables.windows.spec import load_windows
from tables.windows.stats import WindowStats

CHECKOUT = Path(__file__).resolve().parents[2]
WINDOW_MS = 60_000
SERVICES = 64
"""Keys of events: so many that every one of 12 partitions is fed."""
T = TypeVar("T")
Row = tuple[str, int]


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float = 120.0) -> T:
    """Ask until there is an answer; fail naming what was awaited.

    The limit decides about failure only: what takes a second here may take many on a busy machine.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        answer = probe()
        if answer is not None:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s")


# -- workers -------------------------------------------------------------------------------

PORTS = (10_000, 20_000)
"""Below those that systems hand out for outgoing connections, and below embedded brokers'."""
_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on now, and another one each time."""
    while True:
        port = PORTS[0] + secrets.randbelow(PORTS[1] - PORTS[0])
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


@dataclass
class Cluster:
    """Workers of one namespace on one broker."""

    bootstrap: str
    namespace: str
    home: Path
    partitions: int = 4
    session_timeout_ms: int = 6_000

    def topic(self, name: str) -> str:
        return f"{self.namespace}.{name}"

    def environment(self, port: int, extra: dict[str, str]) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
        return kept | {
            "HEADRACE_HOME": str(self.home),
            "HEADRACE_BROKER": f"kafka://{self.bootstrap}",
            "HEADRACE_NAMESPACE": self.namespace,
            "HEADRACE_PARTITIONS": str(self.partitions),
            "HEADRACE_REPLICATION": "1",
            "HEADRACE_SESSION_TIMEOUT_MS": str(self.session_timeout_ms),
            "HEADRACE_WEB_PORT": str(port),
            **extra,
        }

    def worker(self, port: int | None = None, *, entry: Iterable[str] = (), **extra: str) -> Worker:
        """Start a worker, on a free port if none is given; ``entry`` replaces ``-m faust``."""
        port = free_port() if port is None else port
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / f"worker-{port}-{time.monotonic_ns()}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, *(entry or ("-m", "faust")), "-A", "app", "worker", "-l", "info"],
                cwd=CHECKOUT,
                env=self.environment(port, extra),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        return Worker(process, port, log)


@dataclass
class Worker:
    """One worker process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET; (0, reason) when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as reply:
                body = reply.read()
                status = reply.status
        except urllib.error.HTTPError as exc:
            body, status = exc.read(), exc.code
        except OSError as exc:
            return 0, str(exc)
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode(errors="replace")

    def answer(self, path: str) -> Any:
        """JSON of a GET once it is answered 200: between two assignments it is not."""
        said: list[tuple[int, Any]] = []

        def probe() -> tuple[int, Any] | None:
            said[:] = [self.get(path)]
            return said[0] if said[0][0] == 200 else None

        try:
            return wait_for(f"an answer to {path}", probe)[1]
        except AssertionError as exc:
            exc.add_note(f"the last one: {said}")
            raise

    def ready(self, timeout_s: float = 120.0) -> Worker:
        """Wait until /ready says so."""

        def probe() -> bool | None:
            assert self.process.poll() is None, f"worker ended:\n{self.tail()}"
            return self.get("/ready")[0] == 200 or None

        wait_for(f"worker on {self.port} ready\n{self.tail()}", probe, timeout_s)
        return self

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self, timeout_s: float = 120.0) -> int:
        """The exit code of a worker that ends by itself; killed, and a failure, if it does not."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"worker on {self.port} goes on:\n{self.tail()}") from None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode


# -- load and reference --------------------------------------------------------------------


def events(
    seed: int, count: int, *, keys: int, start_ms: int, rate: int
) -> Iterator[dict[str, Any]]:
    """Canonical events whose event time goes on by 1/rate s each; none of them is late."""
    draw = random.Random(seed)
    for number in range(count):
        yield {
            "event_id": f"{seed:08x}-0000-4000-8000-{number:012x}",
            "timestamp": start_ms + number * 1000 // rate,
            "source": "load",
            "service": f"service-{draw.randrange(SERVICES)}",
            "type": "http_request",
            "endpoint": f"/endpoint/{draw.randrange(keys)}",
            "status": 503 if draw.random() < 0.03 else 200,
            "latency_ms": round(draw.lognormvariate(3, 1), 3),
            "message": "GET /endpoint",
        }


class Reference:
    """Aggregates per (endpoint, minute), counted plainly."""

    def __init__(self) -> None:
        self.rows: dict[Row, dict[str, Any]] = {}

    def add(self, event: dict[str, Any]) -> None:
        start = event["timestamp"] // WINDOW_MS * WINDOW_MS
        value = round(event["latency_ms"] * 1000)
        row = self.rows.setdefault(
            (event["endpoint"], start),
            {
                "count": 0,
                "errors": 0,
                "sum": 0,
                "min": value,
                "max": value,
                "hist": defaultdict(int),
            },
        )
        row["count"] += 1
        row["errors"] += event["status"] >= 500
        row["sum"] += value
        row["min"], row["max"] = min(row["min"], value), max(row["max"], value)
        row["hist"][bucket(value)] += 1

    def same(self, found: dict[Row, WindowStats]) -> bool:
        return not self.differences(found)

    def differences(self, found: dict[Row, WindowStats]) -> list[str]:
        """What is not equal, in full: count, errors, sum, min, max, histogram."""
        wrong = []
        for row in sorted(self.rows.keys() | found.keys()):
            want, got = self.rows.get(row), found.get(row)
            if want is None or got is None:
                wrong.append(f"{row}: wanted {want}, found {got}")
                continue
            have = {name: getattr(got, name) for name in ("count", "errors", "sum", "min", "max")}
            have["hist"] = dict(got.hist)
            if have != {**want, "hist": dict(want["hist"])}:
                wrong.append(
                    f"{row}: wanted count {want['count']} sum {want['sum']}, "
                    f"found {got.count} {got.sum}"
                )
        return wrong


class Feeder:
    """Produces events, keyed by service as the gateway does."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._producer = ck.Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 200_000,
            }
        )

    def send(
        self,
        batch: Iterable[dict[str, Any]],
        reference: Reference | None = None,
        topic: str = LOG_EVENTS,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        for event in batch:
            if reference is not None:
                reference.add(event)
            self.raw(event["service"].encode(), json.dumps(event).encode(), topic, headers)

    def raw(
        self,
        key: bytes | None,
        value: bytes | None,
        topic: str = LOG_EVENTS,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        while True:
            try:
                self._producer.produce(
                    self._cluster.topic(topic), value, key, headers=headers or []
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def flush(self) -> None:
        assert self._producer.flush(120) == 0


def read_topic(cluster: Cluster, name: str, *, committed: bool = True) -> list[ck.Message]:
    """Every record of a topic up to its end now, as a committed reader sees it."""
    consumer = ck.Consumer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "group.id": f"{cluster.namespace}-reader",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        count = len(
            consumer.list_topics(cluster.topic(name), 60).topics[cluster.topic(name)].partitions
        )
        consumer.assign([ck.TopicPartition(cluster.topic(name), p, 0) for p in range(count)])
        found: list[ck.Message] = []
        pending = set(range(count))
        deadline = time.monotonic() + 60
        while pending and time.monotonic() < deadline:
            for message in consumer.consume(5_000, 0.2):
                if message.error() is None:
                    found.append(message)
                elif message.error().code() == ck.KafkaError._PARTITION_EOF:
                    pending.discard(message.partition())
        assert not pending, f"{name}: no end reached in {pending}"
        return found
    finally:
        consumer.close()


def committed_windows(
    cluster: Cluster, window: str = "requests_per_endpoint"
) -> dict[Row, WindowStats]:
    """Rows of a window as its changelog tells them: the truth any worker would restore."""
    spec = next(s for s in load_windows(CHECKOUT / "config" / "windows.yaml") if s.name == window)
    table = spec.table()
    rows: dict[Row, WindowStats] = {}
    latest: dict[bytes, tuple[int, bytes | None]] = {}
    for message in read_topic(cluster, WINDOW_CHANGELOG):
        latest[message.key()] = (message.offset(), message.value())
    for raw_key, (_, value) in latest.items():
        parsed = parse_record_key(raw_key)
        if parsed is not None and parsed[0] == table.identity and value is not None:
            rows[parse_row_key(parsed[1])] = table.aggregate.decode(value)
    return rows


def total(rows: dict[Row, WindowStats]) -> int:
    """Events counted in all rows."""
    return sum(row.count for row in rows.values())
