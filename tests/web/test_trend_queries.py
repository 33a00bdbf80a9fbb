"""Trends over HTTP: composed by the owner, kept until the next hop, honest when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.web.fakes import (
    MINUTE,
    NOW,
    PARTITIONS,
    TRENDS,
    Clock,
    Cluster,
    CommittedMeanwhile,
    cluster_of,
    partition_for,
    running_worker,
    stats_of,
)
from web import peers
from web.peers import BREAKER_FAILURES, FORWARDED
from web.queries import asking
from web.queries.scatter import HOP_TIMEOUT_S

HOP = TRENDS.advance_ms


def hits(worker) -> tuple[float, float]:
    value = worker.registry.get_sample_value
    return tuple(value("trend_cache_total", {"result": r}) or 0.0 for r in ("hit", "miss"))


def of_owner(cluster: Cluster, owner: str) -> str:
    """A service whose partition belongs to the worker."""
    names = (f"service-{number}" for number in range(100))
    return next(n for n in names if cluster.owners[partition_for(n.encode(), PARTITIONS)] == owner)


async def test_a47_1_the_three_sizes_agree_on_what_all_of_them_hold() -> None:
    cluster = cluster_of("w1")
    for hop, latency in enumerate((10.0, 20.0, 30.0)):
        cluster.put("shop", NOW - (hop + 1) * HOP, stats_of([latency]), TRENDS.name)
    cluster.mark(NOW)
    async with running_worker(cluster) as worker:
        answer = await worker.json("/trends/shop")
    assert (answer["service"], answer["asOf"], answer["watermark_ms"]) == ("shop", NOW, NOW)
    for window in answer["windows"].values():
        assert (window["count"], window["avgLatency"]) == (3, 20)
        assert window["stddev"] == pytest.approx(8.165, abs=5e-4)
        assert window["complete"] is True
    assert list(answer["windows"]) == ["1m", "5m", "15m"]
    assert answer["trend"] == "up"


async def test_a47_5_an_unknown_service_is_404_and_a_restoring_one_503() -> None:
    cluster = cluster_of("w1")
    cluster.put("shop", NOW - HOP, stats_of([1.0]), TRENDS.name)
    async with running_worker(cluster) as worker:
        await worker.json("/trends/nobody", 404)
        await worker.json("/trends/nobody/history", 404)
        cluster.restoring = set(range(PARTITIONS))
        async with worker.client.get("/trends/shop") as response:
            assert response.status == 503
            assert "Retry-After" in response.headers


async def test_a47_5_a_killed_owner_is_504_then_known_to_be_away_then_asked_again() -> None:
    cluster = cluster_of("w1", "w2")
    service = of_owner(cluster, "w2")
    cluster.put(service, NOW - HOP, stats_of([1.0]), TRENDS.name)
    async with running_worker(cluster, "w1") as one:
        async with running_worker(cluster, "w2"):
            assert (await one.json(f"/trends/{service}"))["worker"] == "w2"
        path = f"/trends/{service}/history"
        details = [(await one.json(path, 504))["detail"] for _ in range(4)]
        assert "cannot be reached" in details[0]
        assert "times in a row" in details[3]
        async with running_worker(cluster, "w2"):  # at another address: a breaker of its own
            assert (await one.json(path))["worker"] == "w2"


@asynccontextmanager
async def dozing(url: str, awake: asyncio.Event) -> AsyncIterator[str]:
    """An address of the worker at ``url`` that takes every request and answers once it is awake."""

    async def answer(request: web.Request) -> web.Response:
        await awake.wait()
        asker = {FORWARDED: request.headers[FORWARDED]}
        async with (
            aiohttp.ClientSession(url, headers=asker) as session,
            session.get(request.path_qs) as answered,
        ):
            return web.Response(body=await answered.read(), status=answered.status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        try:
            yield str(server.make_url("")).rstrip("/")
        finally:
            awake.set()


async def test_a47_5_an_owner_that_hangs_is_504_in_time_then_left_alone_then_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asking.HOP_TIMEOUT_S == HOP_TIMEOUT_S == 3.0
    monkeypatch.setattr(asking, "HOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(peers, "BREAKER_S", 0.1)
    cluster, awake = cluster_of("w1", "w2"), asyncio.Event()
    service = of_owner(cluster, "w2")
    cluster.put(service, NOW - HOP, stats_of([1.0]), TRENDS.name)
    path = f"/trends/{service}/history"
    async with running_worker(cluster, "w1") as one, running_worker(cluster, "w2"):
        async with dozing(cluster.urls["w2"], awake) as url:
            cluster.urls["w2"] = url
            details = [(await one.json(path, 504))["detail"] for _ in range(BREAKER_FAILURES)]
            assert {"did not answer within 0.2 s" in detail for detail in details} == {True}
            async with asyncio.timeout(60):
                while "times in a row" not in (await one.json(path, 504))["detail"]:
                    pass  # a question in between was let through, and not answered either
                awake.set()
                answer = None
                while answer is None:
                    with suppress(AssertionError):
                        answer = await one.json(path)
        assert answer["worker"] == "w2"


async def test_a47_7_the_owner_answers_from_its_rows_and_another_worker_by_one_hop_alike() -> None:
    cluster = cluster_of("w1", "w2")
    service = of_owner(cluster, "w2")
    cluster.put(service, NOW - HOP, stats_of([1.0, 2.0]), TRENDS.name)
    cluster.mark(NOW)
    async with running_worker(cluster, "w1") as other, running_worker(cluster, "w2") as owner:
        local = await owner.json(f"/trends/{service}")
        assert (local["worker"], local["windows"]["1m"]["count"]) == ("w2", 2)
        assert (hits(owner), hits(other)) == ((0, 1), (0, 0))
        assert await other.json(f"/trends/{service}") == local
        assert (hits(owner), hits(other)) == ((1, 1), (0, 1))  # asked once
        assert await other.json(f"/trends/{service}") == local
        assert (hits(owner), hits(other)) == ((1, 1), (1, 1))  # no further hop
        history = f"/trends/{service}/history?from={NOW - MINUTE}&to={NOW}"
        assert await other.json(history) == await owner.json(history)


async def test_a47_6_a_hop_is_composed_once_and_the_next_one_anew() -> None:
    cluster, clock = cluster_of("w1"), Clock()
    cluster.put("shop", NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW)
    async with running_worker(cluster, clock=clock) as worker:
        first = await worker.json("/trends/shop")
        cluster.put("shop", NOW - HOP, stats_of([1.0, 2.0]), TRENDS.name)
        clock.now_ms += HOP - 1
        for _ in range(19):
            aged = first | {"staleness_ms": first["staleness_ms"] + HOP - 1}
            assert await worker.json("/trends/shop") == aged
        hit, miss = hits(worker)
        assert hit / (hit + miss) > 0.9
        clock.now_ms += 1
        assert (await worker.json("/trends/shop"))["windows"]["1m"]["count"] == 2
        assert hits(worker) == (19, 2)


async def test_an_answer_that_may_miss_what_is_on_its_way_is_kept_for_a_second_only() -> None:
    cluster, clock = cluster_of("w1"), Clock()
    cluster.put("shop", NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW - 1)
    async with running_worker(cluster, clock=clock) as worker:
        assert (await worker.json("/trends/shop"))["windows"]["1m"]["complete"] is False
        cluster.put("shop", NOW - HOP, stats_of([1.0, 2.0]), TRENDS.name)
        cluster.mark(NOW)
        clock.now_ms += 1_000
        assert (await worker.json("/trends/shop"))["windows"]["1m"]["count"] == 2


async def test_a_source_that_stays_behind_does_not_keep_the_others_from_the_cache() -> None:
    cluster, clock = cluster_of("w1"), Clock()
    cluster.put("shop", NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW - 60_000)
    async with running_worker(cluster, clock=clock) as worker:
        clock.now_ms += 2_000
        for _ in range(5):
            answer = await worker.json("/trends/shop")
            clock.now_ms += 1_500
        assert answer["windows"]["1m"]["complete"] is False
        assert hits(worker) == (4, 1)


async def test_all_services_are_one_row_and_a_service_of_stars_is_another() -> None:
    cluster = cluster_of("w1")
    cluster.put("*", NOW - HOP, stats_of([1.0] * 7), TRENDS.name)
    cluster.put("**", NOW - HOP, stats_of([1.0]), TRENDS.name)
    async with running_worker(cluster) as worker:
        assert (await worker.json("/trends"))["windows"]["1m"]["count"] == 7
        starred = await worker.json("/trends/*")
        assert (starred["service"], starred["windows"]["1m"]["count"]) == ("*", 1)


async def test_history_has_a_window_at_each_step_of_the_range() -> None:
    cluster = cluster_of("w1")
    two_hours_ago = NOW - 120 * MINUTE
    cluster.put("shop", two_hours_ago, stats_of([4.0]), TRENDS.name)
    async with running_worker(cluster) as worker:
        path = "/trends/shop/history?window=5m&step=60000"
        answer = await worker.json(f"{path}&from={two_hours_ago}&to={two_hours_ago + 10 * MINUTE}")
        assert [window["count"] for window in answer["windows"]] == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
        assert [window["to"] for window in answer["windows"]][:2] == [
            two_hours_ago,
            two_hours_ago + MINUTE,
        ]
        range_ms = f"from={two_hours_ago}&to={two_hours_ago + 10 * MINUTE}"
        as_text = f"/trends/shop/history?window=5m&step=1m&{range_ms}"
        assert (await worker.json(as_text))["windows"] == answer["windows"]
        default = await worker.json("/trends/shop/history?from=-24h")
        assert len(default["windows"]) <= 1_440


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("window=2m", "window"),
        ("step=5000", "step"),
        ("step=0", "step"),
        ("step=x", "step"),
        ("step=-1m", "step"),
        ("step=1w", "step"),
        ("from=-24h&step=10000", "step"),
        ("from=0", "from"),
        ("from=now&to=-1h", "from"),
        ("from=yesterday", "from"),
    ],
)
async def test_a_history_that_cannot_be_given_is_a_400_with_its_field(
    query: str, field: str
) -> None:
    cluster = cluster_of("w1")
    cluster.put("shop", NOW, stats_of([4.0]), TRENDS.name)
    async with running_worker(cluster) as worker:
        problem = await worker.json(f"/trends/shop/history?{query}", 400)
    assert problem["errors"][0]["field"] == field


async def test_what_is_committed_while_panes_are_read_does_not_make_them_complete() -> None:
    cluster = cluster_of("w1")
    partition = partition_for(b"shop", PARTITIONS)
    cluster.tables[partition, TRENDS.name] = CommittedMeanwhile(lambda: cluster.mark(NOW))
    cluster.put("shop", NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW - 1)
    async with running_worker(cluster) as worker:
        answer = await worker.json("/trends/shop")
    assert (answer["windows"]["1m"]["complete"], answer["watermark_ms"]) == (False, NOW - 1)


STALE_PATHS = ("/trends", "/trends/{}", "/trends/{}/history")


@pytest.mark.parametrize("path", STALE_PATHS)
async def test_asked_stale_whoever_has_the_partition_answers_and_says_what_it_is(
    path: str,
) -> None:
    cluster = cluster_of("w1", "w2", "w3")
    service = "*" if path == "/trends" else of_owner(cluster, "w1")
    partition = partition_for(service.encode(), PARTITIONS)
    cluster.owners[partition] = "w1"
    cluster.standbys["w2"] = {partition}
    cluster.put(service, NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW)
    fresh = path.format(service)
    stale = f"{fresh}?consistency=stale"
    told = {"worker": "w2", "role": "standby", "position": 42, "staleness_ms": 250}
    async with running_worker(cluster, "w2") as second, running_worker(cluster, "w3") as third:
        async with running_worker(cluster, "w1") as first:
            active, standby = await first.json(stale), await second.json(stale)
            assert (active["worker"], active["role"], active["staleness_ms"]) == ("w1", "active", 7)
            assert standby == active | told
            assert await third.json(stale) == active
            assert "role" not in await third.json(fresh)
            cluster.restoring = {partition}
            assert await first.json(stale) == standby
        for _ in range(2):  # a dead owner's partition, and nothing of it is kept
            assert await third.json(stale) == standby
        await third.json(f"{fresh}?consistency=maybe", 400)


async def test_what_a_standby_told_is_kept_for_nobody_who_asks_for_the_owner() -> None:
    cluster, clock = cluster_of("w1", "w2"), Clock()
    service = of_owner(cluster, "w1")
    cluster.standbys["w2"] = {partition_for(service.encode(), PARTITIONS)}
    cluster.put(service, NOW - HOP, stats_of([1.0]), TRENDS.name)
    cluster.mark(NOW)
    async with (
        running_worker(cluster, "w1"),
        running_worker(cluster, "w2", clock=clock) as second,
    ):
        path = f"/trends/{service}"
        assert (await second.json(f"{path}?consistency=stale"))["worker"] == "w2"
        fresh = await second.json(path)
        assert (fresh["worker"], "role" in fresh) == ("w1", False)
        assert (await second.json(f"{path}?consistency=stale"))["worker"] == "w2"
