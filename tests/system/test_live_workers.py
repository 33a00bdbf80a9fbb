"""Live numbers of two workers: whoever a page is connected to, it sees the same."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from app.engine.clock import SystemClock
from tests.system.harness import Cluster, Feeder, Reference, Worker, events

pytestmark = pytest.mark.broker

COUNT = 4_000
KEYS = 16
RATE = 200
SILENT_S = 60.0
SECONDS_MAX = 90
COUNTED = ("endpoint", "count", "errors", "error_rate")

Message = dict[str, Any]


def figures(message: Message) -> list[tuple[Any, ...]]:
    """What a message says of each endpoint's last five minutes."""
    rows = message["data"]["endpoints"] if message["state"] == "live" else []
    return sorted(tuple(row[name] for name in COUNTED) for row in rows)


def counted(message: Message) -> int:
    return sum(row[1] for row in figures(message))


async def followed(
    page: aiohttp.ClientWebSocketResponse, complete: asyncio.Barrier
) -> list[Message]:
    """Messages until all events are in them, then more until it is so of the other page, too."""
    found = await whole(page)
    await complete.wait()
    return found + await whole(page)


async def whole(page: aiohttp.ClientWebSocketResponse) -> list[Message]:
    """Messages until one with all events; one in which a worker did not answer is partial."""
    found: list[Message] = []
    for _ in range(SECONDS_MAX):
        found.append(await page.receive_json(timeout=SILENT_S))
        last = found[-1]
        if counted(last) == COUNT and (last["workers"], last["partial"]) == (2, False):
            return found
    raise AssertionError(f"{counted(found[-1])} of {COUNT} events in the last message")


async def test_a44_8_pages_of_two_workers_count_the_same_while_and_after_events_come(
    cluster: Cluster, workers: list[Worker]
) -> None:
    workers += [cluster.worker(HEADRACE_COLLECT="0") for _ in range(2)]
    for worker in workers:
        await asyncio.to_thread(worker.ready)
    reference, feeder, complete = Reference(), Feeder(cluster), asyncio.Barrier(2)
    start_ms = SystemClock().now_ms() - COUNT * 1000 // RATE
    async with aiohttp.ClientSession() as session:
        pages = [
            await session.ws_connect(f"http://127.0.0.1:{worker.port}/ws/metrics")
            for worker in workers
        ]
        for page in pages:
            first = await page.receive_json(timeout=SILENT_S)
            assert "history" in first
        watching = asyncio.gather(*(followed(page, complete) for page in pages))
        feeder.send(events(8, COUNT, keys=KEYS, start_ms=start_ms, rate=RATE), reference)
        await asyncio.to_thread(feeder.flush)
        both = await watching
        for page in pages:
            await page.close()
    wanted: dict[str, list[int]] = {}
    for (endpoint, _), row in reference.rows.items():
        sums = wanted.setdefault(endpoint, [0, 0])
        sums[0] += row["count"]
        sums[1] += row["errors"]
    right = sorted((endpoint, n, bad, bad / n) for endpoint, (n, bad) in wanted.items())
    for messages in both:
        assert figures(messages[-1]) == right
        seqs = [message["seq"] for message in messages]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        sums = [
            counted(message)
            for message in messages
            if (message["workers"], message["partial"]) == (2, False)
        ]
        assert sums == sorted(sums)
    assert len({messages[-1]["worker"] for messages in both}) == 2
    owners = {
        workers[0].answer(f"/api/v1/windows/requests_per_endpoint/%2Fendpoint%2F{n}")["worker"]
        for n in range(KEYS)
    }
    assert len(owners) == 2  # each page needs the other worker's share
