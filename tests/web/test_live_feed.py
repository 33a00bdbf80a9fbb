"""The feed and its WebSocket: what pages receive, and what they cannot do to each other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import WSMsgType, WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer

from app.engine.partitioner import partition_for
from tests.web.fakes import (
    MINUTE,
    NOW,
    PARTITIONS,
    Clock,
    Cluster,
    Worker,
    cluster_of,
    running_worker,
    stats_of,
)
from web.live import hub as live_hub
from web.live.messages import Push
from web.origin import same_origin
from web.peers import Peers


async def ticked(worker: Worker, clock: Clock) -> Push:
    """One second of a worker's feed, by hand."""
    clock.now_ms += 1_000
    peers = Peers(worker.queries.worker)
    await peers.open()
    try:
        return await worker.live.tick(peers)
    finally:
        await peers.close()


async def test_a_page_is_greeted_with_the_history_and_then_gets_each_second():
    cluster, clock = cluster_of("w1"), Clock()
    async with running_worker(cluster, clock=clock) as worker:
        await ticked(worker, clock)
        cluster.put("/a", NOW, stats_of([10] * 8, errors=2))
        await ticked(worker, clock)
        async with worker.client.ws_connect("/ws/metrics") as page:
            first = await page.receive_json()
            assert first["state"] == "live"
            assert first["data"]["rate"] == 8
            assert first["data"]["error_rate"] == 0.25
            assert [point["rate"] for point in first["history"]][-2:] == [0, 8]
            cluster.put("/a", NOW, stats_of([10] * 9, errors=2))
            pushed = await ticked(worker, clock)
            second = await page.receive_json()
            assert "history" not in second
            assert second["seq"] == pushed.seq > first["seq"]
            assert (second["worker"], second["workers"], second["partial"]) == ("w1", 1, False)
            assert second["staleness_ms"] == 7
            assert second["data"]["rate"] == 1
            (endpoint,) = second["data"]["endpoints"]
            assert endpoint == endpoint | {
                "endpoint": "/a",
                "count": 9,
                "errors": 2,
            }
            assert endpoint["p95_ms"] == pytest.approx(10, rel=0.01)


async def test_a44_8_pages_on_two_workers_see_the_same_totals():
    cluster, clock = cluster_of("w1", "w2"), Clock()
    async with (
        running_worker(cluster, "w1", clock=clock) as first,
        running_worker(cluster, "w2", clock=clock) as second,
    ):
        for worker in (first, second):
            await ticked(worker, clock)
        for n in range(40):
            cluster.put(f"/{n}", NOW, stats_of([n + 1]))
        await ticked(first, clock)
        pushed = await ticked(second, clock)
        assert pushed.data is not None
        assert (pushed.workers, pushed.partial) == (2, False)
        # Two seconds of the shared clock have passed since either sampled before.
        assert pushed.data.rate == 20
        partitions = [partition_for(e.endpoint.encode(), PARTITIONS) for e in pushed.data.endpoints]
        assert {cluster.owners[partition] for partition in partitions} == {"w1", "w2"}
        assert len(partitions) == 20


async def test_what_one_worker_knows_to_be_wrong_is_said_by_all_until_it_is_mended():
    cluster, clock = cluster_of("w1", "w2"), Clock()
    async with (
        running_worker(cluster, "w1", clock=clock) as first,
        running_worker(cluster, "w2", clock=clock) as second,
    ):
        cluster.alerts["w1"] = "the ledger does not balance"
        cluster.restoring = {0}  # what a worker has found it tells before it can count
        for worker in (first, second):
            await ticked(worker, clock)
            health = await worker.json("/api/v1/health")
            assert "the ledger does not balance" in health["warnings"]
            async with worker.client.ws_connect("/ws/metrics") as page:
                assert (await page.receive_json())["alert"] == "the ledger does not balance"
        cluster.alerts.clear()
        assert (await ticked(second, clock)).alert == ""
        async with second.client.ws_connect("/ws/metrics") as page:
            assert "alert" not in await page.receive_json()
        assert len((await second.json("/api/v1/health"))["warnings"]) == 1


async def test_the_feed_ticks_by_itself():
    async with (
        running_worker(period_s=0.01) as worker,
        worker.client.ws_connect("/ws/metrics") as page,
    ):
        seqs = [(await page.receive_json())["seq"] for _ in range(4)]
        assert seqs == sorted(set(seqs))


async def test_a_worker_that_does_not_answer_makes_it_partial():
    cluster, clock = cluster_of("w1", "w2"), Clock()
    async with running_worker(cluster, clock=clock) as worker:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        pushed = await ticked(worker, clock)
        assert (pushed.state, pushed.workers, pushed.partial) == ("live", 1, True)
        del cluster.urls["w2"]
        assert (await ticked(worker, clock)).partial


async def test_while_restoring_pages_are_told_to_wait_and_then_see_no_old_traffic_as_new():
    cluster, clock = cluster_of("w1"), Clock()
    cluster.restoring = set(range(PARTITIONS))
    async with running_worker(cluster, clock=clock) as worker:
        cluster.put("/a", NOW - MINUTE, stats_of([1] * 1_000))
        async with worker.client.ws_connect("/ws/metrics") as page:
            first = await page.receive_json()
            assert first["state"] == "loading"
            assert "data" not in first
            cluster.restoring.clear()
            await ticked(worker, clock)
            live = await page.receive_json()
            assert live["data"]["rate"] == 0
            assert live["data"]["endpoints"][0]["count"] == 1_000


async def test_a_partition_that_moves_takes_its_figures_along():
    cluster, clock = cluster_of("w1"), Clock()
    async with running_worker(cluster, clock=clock) as worker:
        await ticked(worker, clock)
        partition = cluster.put("/a", NOW, stats_of([1] * 5))
        assert endpoints(await ticked(worker, clock)) == {"/a": 5}
        cluster.owners[partition] = None
        assert endpoints(await ticked(worker, clock)) == {}
        cluster.owners[partition] = "w1"
        back = await ticked(worker, clock)
        assert endpoints(back) == {"/a": 5}
        assert back.data is not None
        assert back.data.rate == 0


def endpoints(push: Push) -> dict[str, int]:
    assert push.data is not None
    return {each.endpoint: each.count for each in push.data.endpoints}


async def test_a_page_of_another_origin_is_refused():
    async with running_worker() as worker:
        own = str(worker.client.make_url("")).rstrip("/")
        async with worker.client.ws_connect("/ws/metrics", origin=own) as page:
            assert (await page.receive()).type is WSMsgType.TEXT
        for origin in ("https://evil.example", "null", own + "1"):
            with pytest.raises(WSServerHandshakeError) as caught:
                await worker.client.ws_connect("/ws/metrics", origin=origin)
            assert caught.value.status == 403


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (None, "a:6066", True),
        ("http://a:6066", "a:6066", True),
        ("HTTP://A:6066", "a:6066", True),
        ("http://a:6067", "a:6066", False),
        ("http://b", "a", False),
        ("null", "", False),
        ("", "", False),
        ("http://[broken", "a", False),
    ],
)
def test_only_the_own_host_is_the_same_origin(origin: str | None, host: str, same: bool):
    assert same_origin(origin, host) is same


async def test_above_the_cap_pages_are_refused_and_a_place_is_free_again_after_one_left(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(live_hub, "CLIENTS_MAX", 2)
    async with running_worker() as worker:
        pages = [await worker.client.ws_connect("/ws/metrics") for _ in range(2)]
        with pytest.raises(WSServerHandshakeError) as caught:
            await worker.client.ws_connect("/ws/metrics")
        assert caught.value.status == 503
        await pages[0].close()
        async with asyncio.timeout(60):
            while True:
                with suppress(WSServerHandshakeError):
                    page = await worker.client.ws_connect("/ws/metrics")
                    break
        assert (await page.receive()).type is WSMsgType.TEXT


async def test_a_plain_request_is_told_that_this_is_a_websocket():
    async with running_worker() as worker:
        assert "WebSocket" in (await worker.json("/ws/metrics", 400))["detail"]


@pytest.mark.slow
async def test_a_stalled_page_delays_no_other_and_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    # Longer than a page that reads may need for a megabyte on a busy machine.
    monkeypatch.setattr(live_hub, "STALLED_S", 1.5)
    async with running_worker() as worker:
        stalled = await stalled_page(worker)
        async with worker.client.ws_connect("/ws/metrics") as page:
            await page.receive()
            async with asyncio.timeout(60):
                while worker.live.hub.clients == 2:
                    worker.live.hub.push("x" * (1 << 20))
                    message = await page.receive()
                    assert message.type is WSMsgType.TEXT
            assert worker.live.hub.clients == 1
        stalled.close()


async def stalled_page(worker: Worker) -> asyncio.StreamWriter:
    """A page that connects and never reads again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.client.port, limit=1)
    writer.write(
        b"GET /ws/metrics HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await writer.drain()
    await reader.read(1)
    return writer


async def test_a_page_that_cannot_keep_up_gets_the_newest():
    async with running_worker() as worker, worker.client.ws_connect("/ws/metrics") as page:
        await page.receive()
        for number in range(1_000):
            worker.live.hub.push(str(number))
        message: Any = await page.receive()
        assert message.data == "999"


async def test_a_second_that_passes_while_a_page_is_greeted_does_not_replace_its_greeting():
    def greeting() -> str:
        asyncio.get_running_loop().call_soon(hub.push, "second")
        return "greeting"

    hub, app = live_hub.Hub(greeting), web.Application()
    app.router.add_get("/", hub.handle)
    async with TestClient(TestServer(app)) as client, client.ws_connect("/") as page:
        received = [await page.receive_str(timeout=20) for _ in range(2)]
    assert received == ["greeting", "second"]


async def test_when_the_worker_stops_pages_are_told():
    async with running_worker() as worker:
        async with worker.client.ws_connect("/ws/metrics") as page:
            await page.receive()
            await worker.live.stop()
            message = await page.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
        with pytest.raises(WSServerHandshakeError) as caught:
            await worker.client.ws_connect("/ws/metrics")
        assert caught.value.status == 503


async def test_more_changes_than_are_kept_lose_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("web.live.feed.PENDING_MAX", 10)
    cluster, clock = Cluster(dict.fromkeys(range(PARTITIONS), "w1")), Clock()
    async with running_worker(cluster, clock=clock) as worker:
        await ticked(worker, clock)
        for n in range(100):
            cluster.put(f"/{n}", NOW, stats_of([1]))
        pushed = await ticked(worker, clock)
        assert pushed.data is not None
        assert pushed.data.rate == 100


async def test_what_is_committed_while_a_second_is_taken_in_counts_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("web.live.feed.ROWS_SLICE", 1)
    cluster, clock = Cluster(dict.fromkeys(range(PARTITIONS), "w1")), Clock()
    rates, counts, turns = [], {"/a": 0, "/b": 0}, 0

    def commit() -> None:
        """Both keys grow in every turn of the loop, before and while rows are taken in."""
        nonlocal turns
        for key in ("/a", "/b"):
            counts[key] += 1
            cluster.put(key, NOW, stats_of([1] * counts[key]))
        turns += 1
        if turns < 200:
            asyncio.get_running_loop().call_soon(commit)

    async with running_worker(cluster, clock=clock) as worker:
        await ticked(worker, clock)
        commit()
        while turns < 200:
            rates.append((await ticked(worker, clock)).data.rate)
        rates.append((await ticked(worker, clock)).data.rate)
        (first, second) = (await ticked(worker, clock)).data.endpoints
    assert sum(rates) == sum(counts.values()) == first.count + second.count
