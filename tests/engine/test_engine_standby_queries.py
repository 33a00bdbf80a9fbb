"""``?consistency=stale``: whoever has the rows answers, and says what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from app.engine.partitioner import partition_for
from tests.web.fakes import (
    MINUTE,
    NOW,
    PARTITIONS,
    SPEC,
    Cluster,
    Worker,
    cluster_of,
    running_worker,
    stats_of,
)

WINDOWS = f"/api/v1/windows/{SPEC.name}"
KEY = "/orders"
PARTITION = partition_for(KEY.encode(), PARTITIONS)
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def cluster() -> Cluster:
    """w1 owns the key's partition, w2 has a standby of it, w3 nothing."""
    cluster = cluster_of("w1", "w2", "w3")
    cluster.owners[PARTITION] = "w1"
    cluster.standbys["w2"] = {PARTITION}
    cluster.mark(NOW + 10_000)
    cluster.put(KEY, NOW - 2 * MINUTE, stats_of([1, 2, 3]))
    return cluster


@pytest.fixture
async def three(cluster: Cluster) -> AsyncIterator[tuple[Worker, Worker, Worker]]:
    async with (
        running_worker(cluster, "w1") as first,
        running_worker(cluster, "w2") as second,
        running_worker(cluster, "w3") as third,
    ):
        yield first, second, third


async def asked(
    worker: Worker, how: str = "?consistency=stale", status: int = 200
) -> dict[str, Any]:
    answer: dict[str, Any] = await worker.json(f"{WINDOWS}/{quote(KEY, safe='')}{how}", status)
    return answer


def who(answer: dict[str, Any]) -> tuple[str, str, int | None, int]:
    assert [window["count"] for window in answer["windows"]] == [3]
    return answer["worker"], answer["role"], answer["position"], answer["staleness_ms"]


async def test_a_local_standby_answers_with_its_role_position_and_age(
    three: tuple[Worker, Worker, Worker],
) -> None:
    assert who(await asked(three[1])) == ("w2", "standby", 42, 250)


async def test_the_owner_answers_as_active_here_or_by_one_hop(
    three: tuple[Worker, Worker, Worker],
) -> None:
    for worker in (three[0], three[2]):
        assert who(await asked(worker)) == ("w1", "active", 42, 7)


async def test_by_default_and_when_asked_for_only_the_owner_answers(
    three: tuple[Worker, Worker, Worker],
) -> None:
    for how in ("", "?consistency=owner"):
        answer = await asked(three[1], how)
        assert answer["worker"] == "w1"
        assert "role" not in answer


async def test_a_standby_answers_for_an_owner_that_is_gone_unknown_or_restoring(
    cluster: Cluster, three: tuple[Worker, Worker, Worker]
) -> None:
    here = cluster.urls["w1"]
    cluster.urls["w1"] = NOBODY
    assert who(await asked(three[2])) == ("w2", "standby", 42, 250)
    cluster.owners[PARTITION] = None
    assert who(await asked(three[2])) == ("w2", "standby", 42, 250)
    cluster.owners[PARTITION], cluster.urls["w1"] = "w1", here
    cluster.restoring.add(PARTITION)
    for worker in (three[0], three[2]):
        assert who(await asked(worker)) == ("w2", "standby", 42, 250)


async def test_without_owner_and_standby_the_refusal_is_that_of_the_last_asked(
    cluster: Cluster, three: tuple[Worker, Worker, Worker]
) -> None:
    cluster.standbys.clear()
    cluster.restoring.add(PARTITION)
    await asked(three[0], status=503)
    cluster.urls["w1"] = NOBODY
    assert NOBODY in (await asked(three[2], status=504))["detail"]


async def test_a_key_nobody_has_is_not_found(three: tuple[Worker, Worker, Worker]) -> None:
    for worker in three:
        await worker.json(f"{WINDOWS}/none?consistency=stale", 404)


@pytest.mark.parametrize("value", ["", "fresh", "STALE"])
async def test_an_unknown_consistency_is_refused(
    three: tuple[Worker, Worker, Worker], value: str
) -> None:
    answer = await asked(three[0], f"?consistency={value}", 400)
    assert answer["errors"][0]["field"] == "consistency"
