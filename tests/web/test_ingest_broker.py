"""The ingest path to a real broker and back."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import Consumer, Message
from confluent_kafka.cimpl import NewTopic
from prometheus_client import CollectorRegistry

from app.engine.clients import OUTAGES
from app.engine.clock import SystemClock
from app.engine.partitioner import partition_for
from app.models.event import LogEvent, decode_event
from app.settings import Settings
from tables.history.reader import History
from tests.system.topics import make_topics
from tests.web.fakes import NO_HISTORY, PARTITIONS, SPEC, SPECS, MemoryQueries, cluster_of
from web.gateway.logs import LogsGateway
from web.gateway.producer import IngestMetrics, IngestProducer, IngestUnavailable
from web.live.feed import LiveFeed
from web.queries.archive import Archive
from web.server import WebDeps, install

pytestmark = pytest.mark.broker

URL = "/api/v1/logs"
EVENT = {"source": "shop", "level": "INFO", "message": "paid"}


@dataclass
class Ingest:
    client: TestClient[web.Request, web.Application]
    producer: IngestProducer
    registry: CollectorRegistry
    read: Callable[[int], list[Message]]


def event(number: int, service: str = "shop") -> LogEvent:
    return LogEvent(
        event_id=f"00000000-0000-4000-8000-{number:012d}",
        timestamp=1_790_000_000_000,
        source=service,
        service=service,
    )


def read_topic(bootstrap: str, topic: str, wanted: int) -> list[Message]:
    """Everything on the topic, once ``wanted`` records are there; then what comes in 1 s more."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"read-{topic}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    found: list[Message] = []
    try:
        deadline = time.monotonic() + 60
        while len(found) < wanted and time.monotonic() < deadline:
            found += _records(consumer)
        return found + _records(consumer)
    finally:
        consumer.close()


def _records(consumer: Consumer) -> list[Message]:
    return [each for each in consumer.consume(10_000, timeout=1.0) if each.error() is None]


@asynccontextmanager
async def ingesting(bootstrap: str, settings: Settings, **limits: int) -> AsyncIterator[Ingest]:
    registry, clock = CollectorRegistry(), SystemClock()
    producer = IngestProducer(bootstrap, settings.topic, IngestMetrics(registry), **limits)
    producer.start()
    queries = MemoryQueries("w1", cluster_of("w1"))
    gateway = LogsGateway(producer, settings.ingest_rate, clock.now_ms, registry)
    live = LiveFeed(SPEC, queries, clock.now_ms)
    app = web.Application()
    archive = Archive(History(NO_HISTORY, ""))
    deps = WebDeps(settings, queries, SPECS, gateway, live, clock.now_ms, registry, archive)
    install(app, deps)
    topic = settings.topic("application-logs")
    try:
        async with TestClient(TestServer(app)) as client:
            yield Ingest(client, producer, registry, lambda n: read_topic(bootstrap, topic, n))
    finally:
        await producer.stop()


@pytest_asyncio.fixture
async def ingest(kafka: str, namespace: str) -> AsyncIterator[Ingest]:
    settings = Settings(namespace=namespace)
    topic = NewTopic(settings.topic("application-logs"), PARTITIONS, 1)
    await asyncio.to_thread(make_topics, kafka, topic)
    async with ingesting(kafka, settings) as running:
        yield running


async def post(ingest: Ingest, body: object) -> tuple[int, Any]:
    async with ingest.client.post(URL, data=json.dumps(body).encode()) as response:
        return response.status, json.loads(await response.read())


async def test_a39_1_the_record_is_on_application_logs_with_the_answered_id(ingest: Ingest):
    status, answer = await post(ingest, EVENT)
    assert status == 202
    (message,) = await asyncio.to_thread(ingest.read, 1)
    assert decode_event(message.value()).event_id == answer["eventId"]
    assert message.key() == b"shop"
    assert message.partition() == partition_for(b"shop", PARTITIONS)


async def test_every_accepted_event_of_many_batches_is_there_once(ingest: Ingest):
    batch = [EVENT | {"service": f"s{n % 7}"} for n in range(300)] + [{"level": "INFO"}]
    answers = await asyncio.gather(*(post(ingest, batch) for _ in range(10)))
    accepted = [
        result["eventId"]
        for status, answer in answers
        if status == 202
        for result in answer["results"]
        if result["status"] == 202
    ]
    assert len(accepted) == 3_000
    messages = await asyncio.to_thread(ingest.read, 3_000)
    assert sorted(decode_event(m.value()).event_id for m in messages) == sorted(accepted)
    topic = {"topic": "application-logs"}
    assert ingest.registry.get_sample_value("kafka_producer_success_total", topic) == 3_000
    assert ingest.registry.get_sample_value("kafka_producer_error_total", topic) == 0
    assert (
        ingest.registry.get_sample_value("kafka_producer_send_duration_seconds_count", topic) == 10
    )
    assert ingest.registry.get_sample_value("kafka_producer_batch_bytes_count", topic) == 10


async def test_a35_8_malformed_json_leaves_the_topic_as_it_was(ingest: Ingest):
    for raw in (b"{", b'[{"source": "a"}, {"source": NaN}]', b'{"a":' * 10_000):
        async with ingest.client.post(URL, data=raw) as response:
            assert response.status == 400
    status, answer = await post(ingest, EVENT | {"unknown": {"field": 1}})
    assert status == 202
    messages = await asyncio.to_thread(ingest.read, 1)
    assert [decode_event(m.value()).event_id for m in messages] == [answer["eventId"]]


async def test_headers_go_with_every_event(ingest: Ingest):
    await ingest.producer.send("application-logs", [event(1), event(2)], [("lane", b"f1")])
    messages = await asyncio.to_thread(ingest.read, 2)
    assert [m.headers() for m in messages] == [[("lane", b"f1")]] * 2


async def test_after_stop_sends_are_refused_and_what_was_in_flight_has_arrived(ingest: Ingest):
    under_way = asyncio.create_task(ingest.producer.send("application-logs", [event(1)]))
    await asyncio.sleep(0)
    await ingest.producer.stop()
    await under_way
    with pytest.raises(IngestUnavailable):
        await ingest.producer.send("application-logs", [event(2)])
    status, _ = await post(ingest, EVENT)
    assert status == 503
    messages = await asyncio.to_thread(ingest.read, 1)
    assert [decode_event(m.value()).event_id for m in messages] == [event(1).event_id]


async def test_a_topic_that_does_not_exist_is_unavailable(kafka: str, namespace: str):
    settings = Settings(namespace=namespace)
    async with ingesting(kafka, settings, delivery_timeout_ms=1_000) as running:
        status, answer = await post(running, EVENT)
    assert status == 503
    assert "send the events again" in answer["detail"]


def test_the_gateway_meets_an_outage_as_every_client_of_the_engine_does():
    config = IngestProducer("127.0.0.1:1", str, IngestMetrics(CollectorRegistry()))._config
    assert OUTAGES.items() <= config.items()


async def test_a_broker_that_is_away_is_503_with_retry_after(namespace: str):
    settings = Settings(namespace=namespace)
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{held.getsockname()[1]}"
        async with (
            ingesting(nobody, settings, delivery_timeout_ms=1_000) as running,
            running.client.post(URL, json=EVENT) as response,
        ):
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            topic = {"topic": "application-logs"}
            assert running.registry.get_sample_value("kafka_producer_error_total", topic) == 1
