"""What a client is told while a worker restores: to come again later, and then the numbers."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import confluent_kafka as ck
import pytest

from agents.topics import WINDOW_CHANGELOG
from app.engine.clock import SystemClock
from tests.system.harness import (
    Cluster,
    Feeder,
    Worker,
    committed_windows,
    events,
    total,
    wait_for,
)

pytestmark = pytest.mark.broker

COUNT = 500
KEYS = 4
RATE = 50


@contextmanager
def open_transaction(cluster: Cluster) -> Iterator[None]:
    """A record in each partition of the windows' changelog that is not committed, then aborted."""
    producer = ck.Producer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "transactional.id": f"{cluster.namespace}-foreign",
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(cluster.partitions):
        producer.produce(cluster.topic(WINDOW_CHANGELOG), b"x", b"foreign", partition)
    assert producer.flush(30) == 0
    try:
        yield
    finally:
        producer.abort_transaction(30)


def refusal(worker: Worker, path: str) -> int | None:
    """Seconds after which to come again, of an answer that is a 503; None: it is another."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=10).close()
    except urllib.error.HTTPError as answer:
        if answer.code == 503:
            return int(answer.headers["Retry-After"])
    except OSError:
        pass
    return None


async def connected(session: aiohttp.ClientSession, port: int) -> aiohttp.ClientWebSocketResponse:
    """A connection, as soon as the worker's web server listens."""
    for _ in range(600):
        try:
            return await session.ws_connect(f"http://127.0.0.1:{port}/ws/metrics")
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
    raise AssertionError("nobody listens")


async def test_a44_7_during_restore_queries_are_503_and_the_page_is_loading_then_live(
    cluster: Cluster, workers: list[Worker], tmp_path: Path
) -> None:
    workers.append(cluster.worker(HEADRACE_COLLECT="0").ready())
    feeder = Feeder(cluster)
    start_ms = SystemClock().now_ms() - COUNT * 1000 // RATE
    feeder.send(events(1, COUNT, keys=KEYS, start_ms=start_ms, rate=RATE))
    feeder.flush()
    wait_for("all counted", lambda: total(committed_windows(cluster)) == COUNT or None)
    before = wait_for("all is told", lambda: requests(workers[0]))
    workers[0].stop()
    elsewhere = replace(cluster, home=tmp_path / "elsewhere")  # its disk is empty
    paths = [
        "/ready",
        "/metrics/requests",
        "/api/v1/windows/requests_per_endpoint/%2Fendpoint%2F0",
        "/trends/service-1",
    ]
    async with aiohttp.ClientSession() as session:
        with open_transaction(cluster):
            workers.append(elsewhere.worker(HEADRACE_COLLECT="0"))
            page = await connected(session, workers[1].port)
            await asyncio.to_thread(wait_for, "a restore that waits", lambda: held(workers[1]))
            held_ms = SystemClock().now_ms()
            waits = [await asyncio.to_thread(refusal, workers[1], path) for path in paths]
            assert all(seconds and 0 < seconds <= 60 for seconds in waits), (paths, waits)
            said: list[dict[str, Any]] = [await page.receive_json(timeout=60)]
            while said[-1]["ts"] <= held_ms:
                said.append(await page.receive_json(timeout=60))
            assert {message["state"] for message in said} == {"loading"}
            assert not any("data" in message for message in said)
        while said[-1]["state"] == "loading":
            said.append(await page.receive_json(timeout=60))
        await page.close()
        await asyncio.to_thread(workers[1].ready)
    message = said[-1]
    assert (message["state"], message["workers"]) == ("live", 1)
    shown = {each["endpoint"]: each["count"] for each in message["data"]["endpoints"]}
    assert sum(shown.values()) == COUNT
    assert before == await asyncio.to_thread(workers[1].answer, "/metrics/requests") == shown


def requests(worker: Worker) -> dict[str, int] | None:
    """Requests of each endpoint, once all are in them: a moment after they are committed."""
    told: dict[str, int] = worker.answer("/metrics/requests")
    return told if sum(told.values()) == COUNT else None


def held(worker: Worker) -> str | None:
    """What /ready says, once partitions are being restored."""
    status, answer = worker.get("/ready")
    return answer["detail"] if status == 503 and "restor" in answer["detail"] else None
