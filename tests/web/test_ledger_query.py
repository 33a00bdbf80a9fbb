"""``GET /api/v1/ledger``: every partition once, from any worker, honest about what is missing."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from aiohttp.test_utils import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.engine.counts import Counts
from app.engine.query import LedgerRow
from tests.web.fakes import Cluster
from tests.web.shares import SOURCES, Shares, ask, serving, two
from web.peers import FORWARDED
from web.queries.ledger import (
    PATH,
    Account,
    LastVerdict,
    Ledger,
    latest,
    no_verdict,
    row_of,
    totals,
)

DONE = Counts(applied=90, late=4, duplicate=1, rejected=5)
READ = Counts(applied=95, late=4, duplicate=1, rejected=5)


class Books(Shares):
    """A worker's share of a ledger of two topics."""

    def __init__(self, name: str, cluster: Cluster, lag: int | None) -> None:
        super().__init__(name, cluster)
        self._lag = lag

    def ledger(self) -> list[LedgerRow]:
        return [
            LedgerRow(topic, partition, 120, 110, READ, DONE, self._lag)
            for topic, partition in self.mine()
            if partition not in self.cluster.restoring
        ]


def worker(
    cluster: Cluster, name: str, verdict: LastVerdict = no_verdict, lag: int | None = 7
) -> AbstractAsyncContextManager[TestClient[Any, Any]]:
    books = Books(name, cluster, lag)
    return serving(cluster, name, PATH, lambda peers: Ledger(books, peers, SOURCES, verdict).handle)


async def test_any_worker_tells_the_whole_ledger():
    cluster = two()
    async with worker(cluster, "w1") as first, worker(cluster, "w2") as second:
        answer = await ask(first, PATH)
        assert [(r["topic"], r["partition"], r["worker"]) for r in answer["rows"]] == [
            (topic, partition, cluster.owners[partition])
            for topic in SOURCES
            for partition in range(4)
        ]
        assert answer["rows"][0] == {
            "topic": "application-logs",
            "partition": 0,
            "worker": "w1",
            "position": 120,
            "committed_position": 110,
            "in": 100,
            "applied": 90,
            "late": 4,
            "duplicate": 1,
            "rejected": 5,
            "in_flight": 12,
            "balanced": True,
        }
        assert answer["totals"][1] == {
            "topic": "log-events",
            "partitions": 4,
            "in": 400,
            "applied": 360,
            "late": 16,
            "duplicate": 4,
            "rejected": 20,
            "in_flight": 48,
            "balanced": True,
        }
        assert (answer["partial"], answer["missing"], answer["unreported"]) == (False, [], [])
        other = await ask(second, PATH)
        assert (other["rows"], other["totals"]) == (answer["rows"], answer["totals"])


async def test_the_auditors_word_reaches_every_worker_and_unbalances_what_it_names():
    cluster = two()
    wrong = [
        {"source": "log-events", "partition": 1, "text": "one too many"},
        {"source": "application-logs", "partition": None, "text": "other ids"},
    ]
    document = {"verdict": "mismatch", "mismatches": wrong}
    async with worker(cluster, "w1", lambda: document), worker(cluster, "w2") as second:
        answer = await ask(second, PATH)
        assert answer["audit"] == document
        assert [(r["topic"], r["partition"]) for r in answer["rows"] if not r["balanced"]] == [
            ("log-events", 1)
        ]
        assert [total["balanced"] for total in answer["totals"]] == [False, False]


async def test_a_worker_that_does_not_answer_is_named_with_its_partitions():
    cluster = two()
    async with worker(cluster, "w1") as client:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        answer = await ask(client, PATH)
        assert (answer["partial"], answer["missing"]) == (True, ["http://127.0.0.1:1"])
        assert answer["unreported"] == [f"{topic}/{p}" for topic in SOURCES for p in (1, 3)]


async def test_what_is_restored_or_moving_makes_the_ledger_partial():
    cluster = two()
    cluster.restoring.add(2)
    async with worker(cluster, "w1") as client, worker(cluster, "w2"):
        answer = await ask(client, PATH)
        assert answer["partial"]
        assert answer["unreported"] == [f"{topic}/2" for topic in SOURCES]
        cluster.owners[3] = None
        assert (await ask(client, PATH))["missing"] == ["rebalancing"]


async def test_a_forwarded_question_is_answered_from_here_only():
    cluster = two()
    async with worker(cluster, "w1") as client:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        answer = await ask(client, PATH, **{FORWARDED: "w2"})
        assert {row["worker"] for row in answer["rows"]} == {"w1"}
        assert not answer["partial"]


async def test_an_unknown_lag_is_null_not_zero():
    cluster = Cluster(dict.fromkeys(range(4), "w1"))
    async with worker(cluster, "w1", lag=None) as client:
        answer = await ask(client, PATH)
        assert answer["rows"][0]["in_flight"] is None
        assert answer["totals"][0]["in_flight"] is None


counts = st.integers(0, 1 << 40)


@given(st.tuples(counts, counts, counts, counts), st.integers(0, 1 << 50))
def test_a_row_that_counts_more_than_its_offsets_does_not_balance(
    numbers: tuple[int, int, int, int], offset: int
):
    done = Counts(*numbers)
    row = row_of(LedgerRow("t", 0, offset, offset, done, done, 0), "w")
    assert row.records == sum(numbers)
    assert row.balanced == (sum(numbers) <= offset)
    assert row.in_flight == 0


def test_of_two_workers_that_claim_a_partition_the_later_commit_counts():
    done = Counts(1)
    rows: list[Account] = [
        row_of(LedgerRow("t", 0, at, at, done, done, 0), f"w{at}") for at in (5, 9, 7)
    ]
    assert [row.worker for row in latest(rows)] == ["w9"]
    assert totals([]) == []
