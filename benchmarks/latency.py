"""How long it takes an event to be in the window a query answers, under load."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass
from random import Random

import confluent_kafka as ck

from agents.topics import LOG_EVENTS
from app.models.event import LogEvent, encode_event
from benchmarks.broker import BenchBroker
from benchmarks.engine_run import free_port, new_cluster
from benchmarks.load import templates
from benchmarks.process import usage

RATE = 20_000
KEYS = 50
SECONDS = 25
WARM_UP_S = 5
SLICE_S = 0.005
VISIBLE_S_MAX = 10.0
ASK_EACH_S = 0.005
PATH = "/api/v1/windows/requests_per_endpoint/"


@dataclass(slots=True)
class Traffic:
    """Produces :data:`RATE` events per second until told to stop; ``sent`` counts them."""

    producer: ck.Producer
    topic: str
    stop: threading.Event
    sent: int = 0

    def run(self) -> None:
        """Send what is due, slice by slice."""
        shapes = templates(KEYS, seed=1)
        began = time.monotonic()
        while not self.stop.wait(SLICE_S):
            due = int((time.monotonic() - began) * RATE)
            now_ms = time.time_ns() // 1_000_000
            while self.sent < due:
                shape = shapes[self.sent % len(shapes)]
                head = (
                    f'{{"event_id":"00000001-0000-4000-8000-{self.sent:012x}","timestamp":{now_ms}'
                )
                self.producer.produce(self.topic, (head + shape.tail).encode(), shape.key)
                self.sent += 1
            self.producer.poll(0)


def bench_latency(broker: BenchBroker) -> str:
    """Send to visible: single events of their own key, one at a time, through 20 000 events/s."""
    cluster = new_cluster(broker)
    worker = cluster.worker(free_port(), HEADRACE_DEMO="0", HEADRACE_COLLECT="0")
    config = {"bootstrap.servers": broker.bootstrap, "linger.ms": 1, "compression.type": "lz4"}
    producer = ck.Producer(config | {"partitioner": "murmur2_random", "log_level": 2})
    topic = cluster.topic(LOG_EVENTS)
    traffic = Traffic(producer, topic, threading.Event())
    thread = threading.Thread(target=traffic.run)
    try:
        worker.ready()
        thread.start()
        time.sleep(WARM_UP_S)
        began, sent = usage(worker.process.pid), traffic.sent
        took_ms = _probe(producer, topic, worker.port, began.at + SECONDS)
        ended, rate = usage(worker.process.pid), traffic.sent - sent
    finally:
        traffic.stop.set()
        if thread.is_alive():
            thread.join()
        producer.flush(10)
        worker.stop()
    seconds = ended.at - began.at
    took_ms.sort()
    return (
        f"latency at {rate / seconds:,.0f} events/s, two hops, send to query-visible: "
        f"p50 {took_ms[len(took_ms) // 2]:.0f} ms, p99 {took_ms[len(took_ms) * 99 // 100]:.0f} ms, "
        f"longest {took_ms[-1]:.0f} ms of {len(took_ms)}; "
        f"worker at {(ended.cpu_s - began.cpu_s) / seconds:.0%} of a core"
    )


def _probe(producer: ck.Producer, topic: str, port: int, until: float) -> list[float]:
    """Milliseconds from sending an event to the first query that answers with it."""
    draw = Random(3)  # noqa: S311 - spreads probes over epochs
    took: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while time.monotonic() < until:
        endpoint = f"/probe/{len(took)}"
        event = LogEvent(
            event_id=f"00000002-0000-4000-8000-{len(took):012x}",
            timestamp=time.time_ns() // 1_000_000,
            source="probe",
            service=f"service-{draw.randrange(16)}",
            endpoint=endpoint,
            latency_ms=1.0,
        )
        began = time.monotonic()
        producer.produce(topic, encode_event(event), event.service.encode())
        while not _visible(connection, endpoint):
            if time.monotonic() - began > VISIBLE_S_MAX:
                raise TimeoutError(f"{endpoint} is in no window after {VISIBLE_S_MAX:.0f} s")
            # Asking costs the worker CPU: not so often that it slows what is measured.
            time.sleep(ASK_EACH_S)
        took.append((time.monotonic() - began) * 1000)
        time.sleep(draw.random() * 0.05)
    connection.close()
    return took


def _visible(connection: http.client.HTTPConnection, endpoint: str) -> bool:
    connection.request("GET", PATH + urllib.parse.quote(endpoint, safe=""))
    reply = connection.getresponse()
    body = reply.read()
    return reply.status == http.HTTPStatus.OK and bool(json.loads(body)["windows"])
