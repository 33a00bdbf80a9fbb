"""What answers say of themselves: where from, how far, how old, and whether anything is missing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tables.windows.stats import WindowStats
from tests.web.fakes import (
    ERRORS,
    MINUTE,
    NOW,
    PARTITIONS,
    SPEC,
    TRENDS,
    Cluster,
    cluster_of,
    running_worker,
    stats_of,
)
from web.api.operations import OPERATIONS
from web.queries.whence import Spread, Spreading

FAR = NOW + 10_000
WHOLE = {
    "partitions": list(range(PARTITIONS)),
    "worker": "w1",
    "watermark_ms": FAR,
    "staleness_ms": 7,
    "partial": False,
    "missing": [],
}
LISTS = {
    f"/api/v1/windows/{SPEC.name}": "/api/v1/windows/{name}",
    "/metrics/errors": "/metrics/errors",
    "/metrics/latency": "/metrics/latency",
    "/metrics/anomalies": "/metrics/anomalies",
}
OF_ONE = {
    f"/api/v1/windows/{SPEC.name}/%2F1": "/api/v1/windows/{name}/{key}",
    "/trends": "/trends",
    "/trends/shop": "/trends/{service}",
    "/trends/shop/history": "/trends/{service}/history",
}


def told(answer: dict[str, Any], of: dict[str, Any] = WHOLE) -> dict[str, Any]:
    return {name: answer[name] for name in of}


def described(path: str) -> Any:
    return next(each.answer for each in OPERATIONS if each.path == path and each.method == "get")


@pytest.fixture
def cluster() -> Cluster:
    """Every partition has a row of each window."""
    cluster = cluster_of("w1", "w2")
    for number in range(40):
        cluster.put(f"/{number}", NOW, stats_of([5.0]))
        failed = WindowStats(count=1, codes={500: 1}, lanes=("0/",))
        cluster.put(f"/{number}", NOW, failed, ERRORS.name)
    for service in ("shop", "*"):
        cluster.put(service, NOW - MINUTE, stats_of([5.0]), TRENDS.name)
    cluster.mark(FAR)
    return cluster


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_tells_its_partitions_the_least_watermark_and_the_greatest_age(
    cluster: Cluster, path: str
) -> None:
    async with running_worker(cluster, "w1") as one, running_worker(cluster, "w2"):
        answer = await one.json(path)
        assert told(answer) == WHOLE
        msgspec.convert(answer, described(LISTS[path]))
    async with running_worker(cluster, "w1") as one:
        cluster.urls["w2"] = "http://127.0.0.1:9"
        alone = await one.json(path)
    here = {"partitions": [0, 2], "partial": True, "missing": ["http://127.0.0.1:9"]}
    assert told(alone) == WHOLE | here


async def test_requests_tell_the_same_in_headers(cluster: Cluster) -> None:
    async with running_worker(cluster, "w1") as one, running_worker(cluster, "w2"):
        async with one.client.get("/metrics/requests") as response:
            assert sum((await response.json()).values()) == 40
            whole = {k: v for k, v in response.headers.items() if k.startswith("Headrace-")}
        cluster.owners[1] = None
        async with one.client.get("/metrics/requests") as response:
            part = {k: v for k, v in response.headers.items() if k.startswith("Headrace-")}
    assert whole == {
        "Headrace-Partitions": "0, 1, 2, 3",
        "Headrace-Worker": "w1",
        "Headrace-Watermark-Ms": str(FAR),
        "Headrace-Staleness-Ms": "7",
        "Headrace-Partial": "false",
    }
    assert part == whole | {
        "Headrace-Partitions": "0, 2, 3",
        "Headrace-Partial": "true",
        "Headrace-Missing": "rebalancing",
    }


@pytest.mark.parametrize("path", OF_ONE)
async def test_an_answer_of_one_partition_tells_which_and_whose(
    cluster: Cluster, path: str
) -> None:
    async with running_worker(cluster, "w1") as one, running_worker(cluster, "w2") as two:
        answers = [await worker.json(path) for worker in (one, two)]
    assert answers[0] == answers[1]
    whence = {"watermark_ms": FAR, "staleness_ms": 7, "partial": False}
    assert told(answers[0], whence) == whence
    assert answers[0]["worker"] == cluster.owners[answers[0]["partition"]]
    msgspec.convert(answers[0], described(OF_ONE[path]))


async def test_without_a_lane_that_is_awake_there_is_no_watermark() -> None:
    cluster = cluster_of("w1")
    cluster.put("/1", NOW, stats_of([5.0]))
    async with running_worker(cluster, "w1") as one:
        for path in LISTS:
            answer = await one.json(path)
            assert (answer["watermark_ms"], answer["partial"]) == (None, False)


def test_the_figures_of_many_partitions_are_the_least_watermark_and_the_greatest_age() -> None:
    def of(partition: int, watermark_ms: int | None, staleness_ms: int, *missing: str) -> Spread:
        return Spread(
            partitions=[partition],
            worker="other",
            watermark_ms=watermark_ms,
            staleness_ms=staleness_ms,
            partial=bool(missing),
            missing=[*missing],
        )

    spread = Spreading("w1")
    for each in (of(3, None, 1), of(1, 50, 90), of(2, 40, 30, "w3")):
        spread.add(each)
    spread.miss([])
    assert spread.figures() == {
        "partitions": [1, 2, 3],
        "worker": "w1",
        "watermark_ms": 40,
        "staleness_ms": 90,
        "partial": True,
        "missing": ["w3"],
        "standbys": msgspec.UNSET,
    }
    spread.miss_here()
    assert spread.figures()["missing"] == ["w1", "w3"]
