"""``?consistency=stale`` of the views over all partitions: each told once, by whoever has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.web.fakes import (
    ERRORS,
    MINUTE,
    NOW,
    PARTITIONS,
    SPEC,
    Cluster,
    MemoryTable,
    Worker,
    cluster_of,
    partition_for,
    running_worker,
    stats_of,
)
from web.peers import FORWARDED
from web.queries.requests import REPORT_PATH, Report

LISTS = ("/metrics/requests", "/metrics/errors", "/metrics/latency", "/metrics/anomalies")
KEYS = [f"/key-{number}" for number in range(14)]
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def cluster() -> Cluster:
    """Three workers, each with a standby of what the one before it owns."""
    cluster = cluster_of("w1", "w2", "w3")
    for key in KEYS:
        for minutes_ago in range(1, 23):
            latency = 500.0 if minutes_ago == 1 else 90.0 + minutes_ago % 2 * 20
            cluster.put(key, NOW - minutes_ago * MINUTE, stats_of([latency] * 4, errors=1))
        cluster.put(key, NOW, stats_of([5.0] * 3, errors=1), ERRORS.name)
    cluster.mark(NOW + MINUTE)
    cluster.urls = dict.fromkeys(("w1", "w2", "w3"), NOBODY)
    for owner, standby in (("w1", "w2"), ("w2", "w3"), ("w3", "w1")):
        cluster.standbys[standby] = {p for p, name in cluster.owners.items() if name == owner}
    return cluster


def of(cluster: Cluster, owner: str) -> list[int]:
    return [partition for partition, name in cluster.owners.items() if name == owner]


async def told(worker: Worker, path: str) -> dict[str, Any]:
    """What an answer says, in its body or beside it."""
    async with worker.client.get(path) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        if not path.startswith("/metrics/requests"):
            return body
        header = response.headers.get
        names = [name for name in header("Headrace-Missing", "").split(", ") if name]
        numbers = header("Headrace-Standbys", "").split(", ")
        return {
            "found": body,
            "partial": header("Headrace-Partial") == "true",
            "missing": names,
            "standbys": [int(number) for number in numbers if number],
            "staleness_ms": int(header("Headrace-Staleness-Ms", "-1")),
        }


@pytest.mark.parametrize("path", LISTS)
async def test_owners_that_answer_tell_their_partitions_and_standbys_tell_nothing(
    cluster: Cluster, path: str
) -> None:
    async with (
        running_worker(cluster, "w1") as one,
        running_worker(cluster, "w2"),
        running_worker(cluster, "w3"),
    ):
        fresh, stale = await told(one, path), await told(one, f"{path}?consistency=stale")
    assert len(fresh["found"]) == len(KEYS)
    assert stale["found"] == fresh["found"]
    figures = (stale["partial"], stale["missing"], stale["standbys"], stale["staleness_ms"])
    assert figures == (False, [], [], 7)


@pytest.mark.parametrize("path", LISTS)
async def test_a_dead_owners_partitions_are_told_by_a_standby_here_or_by_one_hop(
    cluster: Cluster, path: str
) -> None:
    async with running_worker(cluster, "w2") as holds, running_worker(cluster, "w3") as asks:
        for worker in (holds, asks):
            fresh = await told(worker, path)
            assert (fresh["partial"], fresh["missing"]) == (True, [NOBODY])
            stale = await told(worker, f"{path}?consistency=stale")
            assert len(fresh["found"]) < len(stale["found"]) == len(KEYS)
            assert (stale["partial"], stale["missing"]) == (False, [])
            assert (stale["standbys"], stale["staleness_ms"]) == (of(cluster, "w1"), 250)


@pytest.mark.parametrize("path", LISTS)
async def test_what_is_restored_here_or_owned_by_nobody_is_told_by_a_standby(
    cluster: Cluster, path: str
) -> None:
    (moving, *_), restored = of(cluster, "w2"), of(cluster, "w1")
    cluster.owners[moving], cluster.restoring = None, set(restored)
    async with (
        running_worker(cluster, "w1") as one,
        running_worker(cluster, "w2"),
        running_worker(cluster, "w3"),
    ):
        await one.json(path, 503)
        stale = await told(one, f"{path}?consistency=stale")
    assert (len(stale["found"]), stale["partial"]) == (len(KEYS), False)
    assert stale["standbys"] == sorted([*restored, moving])


@pytest.mark.parametrize("path", LISTS)
async def test_what_no_standby_tells_is_missing_and_named(cluster: Cluster, path: str) -> None:
    cluster.owners[of(cluster, "w3")[0]] = None
    cluster.restoring = {2}
    cluster.standbys = {"w3": {0}}
    cluster.owners[0] = cluster.owners[1] = "w1"
    cluster.owners[2] = "w2"
    cluster.owners[3] = None
    async with running_worker(cluster, "w2") as two:
        stale = await told(two, f"{path}?consistency=stale")
    assert (stale["partial"], stale["missing"]) == (True, [NOBODY, "rebalancing", "w2"])
    assert not stale["found"]


async def test_a_standby_that_answers_for_more_than_it_was_asked_is_not_believed(
    cluster: Cluster,
) -> None:
    everything = Report(
        partitions=list(range(PARTITIONS)),
        worker="w2",
        watermark_ms=None,
        staleness_ms=0,
        partial=False,
        missing=[],
        counts=dict.fromkeys(KEYS, 99),
        truncated=False,
    )
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query.get("partitions", ""))
        if not asked[-1]:
            raise web.HTTPServiceUnavailable
        return web.Response(body=msgspec.json.encode(everything))

    app = web.Application()
    app.router.add_get(REPORT_PATH, answer)
    async with TestServer(app) as server, running_worker(cluster, "w3") as three:
        cluster.urls["w2"] = str(server.make_url("")).rstrip("/")
        stale = await told(three, "/metrics/requests?consistency=stale")
    assert asked == ["", ",".join(map(str, of(cluster, "w1")))]
    assert 99 not in stale["found"].values()
    assert stale["missing"] == [NOBODY]


class Leaving(MemoryTable):
    """A table whose partition leaves once the rows of a key were read."""

    def __init__(self, leave: Callable[[], None]) -> None:
        super().__init__()
        self._leave = leave

    def range(
        self, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        if reverse and limit > 1:
            self._leave()
        return super().range(lo, hi, limit=limit, reverse=reverse)


@pytest.mark.parametrize("path", ["/metrics/requests", "/metrics/latency"])
async def test_of_a_partition_that_leaves_while_it_is_read_nothing_is_told(path: str) -> None:
    cluster = cluster_of("w1")
    partition = 2
    keys = [key for key in KEYS if partition_for(key.encode(), PARTITIONS) == partition]
    cluster.tables[partition, SPEC.name] = Leaving(lambda: cluster.owners.update({partition: "w2"}))
    for key in keys:
        cluster.put(key, NOW, stats_of([1.0]))
    async with running_worker(cluster, "w1") as worker:
        answer = await told(worker, path)
    assert (list(answer["found"]), answer["partial"]) == ([], True)


async def test_only_workers_may_ask_for_partitions_and_only_for_such(cluster: Cluster) -> None:
    async with running_worker(cluster, "w1") as one:
        await one.json("/metrics/errors?partitions=1", 400)
        await one.json("/metrics/errors?consistency=maybe", 400)
        for wanted in ("", "x", "1,-1", "1,,2", "1" * 7):
            path = f"/internal/metrics/errors?partitions={wanted}"
            async with one.client.get(path, headers={FORWARDED: "w9"}) as response:
                assert response.status == 400, wanted
        path = "/internal/metrics/errors?partitions=1&consistency=stale"
        async with one.client.get(path, headers={FORWARDED: "w9"}) as response:
            assert (response.status, (await response.json())["partitions"]) == (200, [])
