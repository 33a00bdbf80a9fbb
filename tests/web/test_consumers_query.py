"""``GET /api/v1/consumers``: every partition once, from any worker, with who is missing named."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from aiohttp.test_utils import TestClient

from app.engine.query import ConsumerRow
from tests.web.fakes import Cluster
from tests.web.shares import SOURCES, Shares, ask, serving, two
from web.peers import FORWARDED
from web.queries.consumers import PATH, Consumers, latest, row_of

RUNNING = ConsumerRow("log-events", 0, "running", 120, 110, 200, 80, 500, False, 1_790_000_000_000)


class Readers(Shares):
    """A worker's share of the partitions of two topics."""

    def consumers(self) -> list[ConsumerRow]:
        return [self._row(topic, partition) for topic, partition in self.mine()]

    def _row(self, topic: str, partition: int) -> ConsumerRow:
        if partition in self.cluster.restoring:
            unknown = (None, None, None, None)
            return ConsumerRow(topic, partition, "restoring", *unknown, 500, False, None)
        return replace(RUNNING, topic=topic, partition=partition)


def worker(cluster: Cluster, name: str) -> AbstractAsyncContextManager[TestClient[Any, Any]]:
    readers = Readers(name, cluster)
    return serving(cluster, name, PATH, lambda peers: Consumers(readers, peers, SOURCES).handle)


async def test_any_worker_tells_of_every_partition_and_its_owner():
    cluster = two()
    async with worker(cluster, "w1") as first, worker(cluster, "w2") as second:
        answer = await ask(first, PATH)
        assert [(r["topic"], r["partition"], r["worker"], r["owner"]) for r in answer["rows"]] == [
            (topic, p, cluster.owners[p], cluster.urls[cluster.owners[p] or ""])
            for topic in SOURCES
            for p in range(4)
        ]
        assert answer["rows"][4] == {
            "topic": "log-events",
            "partition": 0,
            "owner": cluster.urls["w1"],
            "worker": "w1",
            "state": "running",
            "position": 120,
            "committed": 110,
            "high_water": 200,
            "lag": 80,
            "batch_size": 500,
            "paused": False,
            "watermark_ms": 1_790_000_000_000,
        }
        assert (answer["partial"], answer["missing"], answer["unreported"]) == (False, [], [])
        assert (await ask(second, PATH))["rows"] == answer["rows"]


async def test_a_partition_that_is_restored_has_its_row_and_no_offsets():
    cluster = two()
    cluster.restoring.add(2)
    async with worker(cluster, "w1") as client, worker(cluster, "w2"):
        answer = await ask(client, PATH)
        (row,) = [r for r in answer["rows"] if (r["topic"], r["partition"]) == ("log-events", 2)]
        assert (row["state"], row["position"], row["lag"]) == ("restoring", None, None)
        assert not answer["partial"]


async def test_a_worker_that_does_not_answer_is_named_with_its_partitions():
    cluster = two()
    async with worker(cluster, "w1") as client:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        answer = await ask(client, PATH)
        assert (answer["partial"], answer["missing"]) == (True, ["http://127.0.0.1:1"])
        assert answer["unreported"] == [f"{topic}/{p}" for topic in SOURCES for p in (1, 3)]


async def test_a_partition_without_an_owner_makes_the_answer_partial():
    cluster = two()
    cluster.owners[3] = None
    async with worker(cluster, "w1") as client, worker(cluster, "w2"):
        answer = await ask(client, PATH)
        assert (answer["partial"], answer["missing"]) == (True, ["rebalancing"])
        assert answer["unreported"] == [f"{topic}/3" for topic in SOURCES]


async def test_a_forwarded_question_is_answered_from_here_only():
    cluster = two()
    async with worker(cluster, "w1") as client:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        answer = await ask(client, PATH, **{FORWARDED: "w2"})
        assert {row["worker"] for row in answer["rows"]} == {"w1"}
        assert not answer["partial"]


def test_of_two_workers_that_claim_a_partition_the_later_commit_counts():
    unknown = replace(RUNNING, committed_position=None)
    rows = [
        row_of(unknown, {}, "w0"),
        *(row_of(replace(RUNNING, committed_position=at), {}, f"w{at}") for at in (5, 9, 7)),
    ]
    assert [row.worker for row in latest(rows)] == ["w9"]
    assert [row.worker for row in latest(rows[:1])] == ["w0"]
