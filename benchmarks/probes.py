"""Single events on their way through a worker, and who notes when each is seen where."""

from __future__ import annotations

import http.client
import json
import queue
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import confluent_kafka as ck

from agents.topics import WINDOW_CHANGELOG, WINDOW_PARTIALS
from app.engine.changelog import parse_record_key
from app.models.event import LogEvent, encode_event
from benchmarks.engine_run import PARTITIONS
from benchmarks.load import SERVICES
from benchmarks.results import VoidError
from tables.windows.spec import load_windows
from tests.system.harness import Cluster

PROBES_PER_S = 20
ASK_EACH_S = 0.001
WINDOW = "requests_per_endpoint"
PROBE = "/probe/%06d"
_PROBE = re.compile(rb"/probe/(\d{6})")


def now_ms() -> float:
    """Wall clock of this machine, which is the broker's too."""
    return time.time_ns() / 1_000_000


@dataclass(slots=True)
class Probe:
    """One event's way, epoch ms; 0: not there yet. ``plain_*``: the plain record beside it."""

    sent: float
    appended: float = 0.0
    partial: float = 0.0
    row: float = 0.0
    answered: float = 0.0
    plain_appended: float = 0.0
    plain_seen: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether it has been seen everywhere."""
        return bool(self.answered and self.plain_seen and self.plain_appended and self.appended)


@dataclass(slots=True)
class Reader:
    """A reader of committed records that notes when it sees what, in a thread of its own."""

    cluster: Cluster
    config: Path
    plain: str
    probes: list[Probe] = field(default_factory=list)
    committed: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    ready: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Read until told to stop."""
        consumer = ck.Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": f"{self.cluster.namespace}-latency",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "log_level": 2,
            }
        )
        partials, rows = map(self.cluster.topic, (WINDOW_PARTIALS, WINDOW_CHANGELOG))
        identity = next(
            spec.table().identity
            for spec in load_windows(self.config / "windows.yaml")
            if spec.name == WINDOW
        )
        topics = [(self.plain, 0), *((t, p) for t in (partials, rows) for p in range(PARTITIONS))]
        consumer.assign([ck.TopicPartition(t, p, ck.OFFSET_END) for t, p in topics])
        behind = set(topics)
        while not self.stop.is_set():
            message = consumer.poll(0.1)
            if message is None:
                continue
            topic, at = str(message.topic()), now_ms()
            behind.discard((topic, int(message.partition() or 0)))
            if not behind:
                self.ready.set()
            if message.error() is not None:
                continue
            if topic == self.plain:
                self.probes[int(message.value() or b"")].plain_seen = at
            elif topic == partials:
                for number in map(int, _PROBE.findall(message.value() or b"")):
                    self.probes[number].partial = self.probes[number].partial or at
            else:
                self._row(message.key() or b"", identity, at)
        consumer.close()

    def _row(self, key: bytes, identity: str, at: float) -> None:
        found, parsed = _PROBE.search(key), parse_record_key(key)
        if found is None or parsed is None or parsed[0] != identity:
            return
        number = int(found[1])
        if not self.probes[number].row:
            self.probes[number].row = at
            self.committed.put(number)

    def ask(self, port: int) -> None:
        """Ask for each window that was committed until it is in the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while (number := self.committed.get()) is not None:
            while not _answers(connection, PROBE % number):
                if self.stop.is_set():
                    return
                time.sleep(ASK_EACH_S)
            self.probes[number].answered = now_ms()
        connection.close()


def _answers(connection: http.client.HTTPConnection, endpoint: str) -> bool:
    path = f"/api/v1/windows/{WINDOW}/{urllib.parse.quote(endpoint, safe='')}"
    connection.request("GET", path)
    reply = connection.getresponse()
    body = reply.read()
    return reply.status == http.HTTPStatus.OK and bool(json.loads(body)["windows"])


@dataclass(slots=True)
class Sender:
    """Sends probes, each with a plain record, and notes when the broker appended them."""

    producer: ck.Producer
    events: str
    plain: str
    probes: list[Probe]

    def run(self, seconds: float) -> None:
        """Send for so long; the gaps vary so that probes fall anywhere in an epoch."""
        draw = Random(3)  # noqa: S311 - spreads probes
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._send(f"service-{draw.randrange(SERVICES)}")
            due = now + draw.uniform(0.5, 1.5) / PROBES_PER_S
            while (left := due - time.monotonic()) > 0:
                self.producer.poll(left)

    def _send(self, service: str) -> None:
        probe, number = Probe(now_ms()), len(self.probes)
        event = LogEvent(
            event_id=f"00000002-0000-4000-8000-{number:012x}",
            timestamp=int(probe.sent),
            source="probe",
            service=service,
            endpoint=PROBE % number,
            latency_ms=1.0,
        )
        self.probes.append(probe)

        def event_appended(_error: ck.KafkaError | None, message: ck.Message) -> None:
            probe.appended = _appended_ms(message)

        def plain_appended(_error: ck.KafkaError | None, message: ck.Message) -> None:
            probe.plain_appended = _appended_ms(message)

        self.producer.produce(
            self.events, encode_event(event), service.encode(), on_delivery=event_appended
        )
        self.producer.produce(self.plain, b"%d" % number, on_delivery=plain_appended)


def _appended_ms(message: ck.Message) -> float:
    kind, timestamp = message.timestamp()
    if message.error() is not None or kind != ck.TIMESTAMP_LOG_APPEND_TIME:
        raise VoidError(f"{message.topic()} does not tell when a record was appended")
    return float(timestamp)
