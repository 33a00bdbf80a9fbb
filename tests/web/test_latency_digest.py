"""The t-digest of an endpoint: built when it is asked for, from all its windows, to be merged."""

from __future__ import annotations

import random
from urllib.parse import quote

import pytest
from tdigest import TDigest

from tests.web.fakes import (
    MINUTE,
    NOW,
    PARTITIONS,
    Cluster,
    cluster_of,
    partition_for,
    running_worker,
    stats_of,
)
from web.queries.digests import PATH


def of_owner(cluster: Cluster, owner: str) -> str:
    names = (f"/endpoint/{number}" for number in range(100))
    return next(n for n in names if cluster.owners[partition_for(n.encode(), PARTITIONS)] == owner)


def asked(endpoint: str, query: str = "") -> str:
    return f"{PATH}?endpoint={quote(endpoint, safe='')}{query}"


async def test_quantiles_are_those_of_all_minutes_together_and_the_centroids_hold_each_request():
    cluster = cluster_of("w1")
    draw = random.Random(19)
    latencies = [round(draw.lognormvariate(3, 1), 3) for _ in range(3_000)]
    for minute in range(3):
        part = latencies[minute * 1_000 : (minute + 1) * 1_000]
        cluster.put("/cart", NOW - minute * MINUTE, stats_of(part))
    cluster.put("/cart", NOW - 5 * MINUTE, stats_of([1e6]))  # before the last five minutes
    cluster.mark(NOW)
    async with running_worker(cluster) as worker:
        answer = await worker.json(asked("/cart"))
    digest = answer["digest"]
    ordered = sorted(latencies)
    assert (digest["count"], digest["min"], digest["max"]) == (3_000, ordered[0], ordered[-1])
    for name, place in (("p50", 1_500), ("p95", 2_850), ("p99", 2_970)):
        assert digest[name] == pytest.approx(ordered[place], rel=0.02)
    means = [mean for mean, _ in digest["centroids"]]
    assert means == sorted(means)
    assert sum(count for _, count in digest["centroids"]) == pytest.approx(3_000)
    assert (answer["endpoint"], answer["from"], answer["to"]) == (
        "/cart",
        NOW + 1 - 5 * MINUTE,
        NOW + 1,
    )
    assert (answer["worker"], answer["watermark_ms"], answer["partial"]) == ("w1", NOW, False)


async def test_digests_of_two_endpoints_merge_into_that_of_both():
    cluster = cluster_of("w1", "w2")
    fast, slow = of_owner(cluster, "w1"), of_owner(cluster, "w2")
    cluster.put(fast, NOW, stats_of([float(n) for n in range(1, 901)]))
    cluster.put(slow, NOW, stats_of([float(n) for n in range(2_000, 2_100)]))
    both = TDigest()
    async with running_worker(cluster, "w1") as one, running_worker(cluster, "w2") as two:
        for endpoint in (fast, slow):
            answer = await one.json(asked(endpoint))
            assert (await two.json(asked(endpoint)))["digest"]["count"] == answer["digest"]["count"]
            for mean, count in answer["digest"]["centroids"]:
                both.update(mean, count)
    assert both.percentile(50) == pytest.approx(500, rel=0.02)
    assert both.percentile(95) == pytest.approx(2_050, rel=0.02)


async def test_a_range_is_that_of_the_windows_starts_and_one_without_latencies_has_no_quantiles():
    cluster = cluster_of("w1")
    cluster.put("/cart", NOW - 60 * MINUTE, stats_of([7.0]))
    async with running_worker(cluster) as worker:
        hour_ago = await worker.json(asked("/cart", f"&from=-1h&to={NOW}"))
        assert hour_ago["digest"] == {
            "count": 1,
            **dict.fromkeys(("min", "max", "p50", "p95", "p99"), 7.0),
            "centroids": [[pytest.approx(7.0, rel=0.005), 1]],
        }
        silent = await worker.json(asked("/cart"))
    assert silent["digest"] == {
        "count": 0,
        **dict.fromkeys(("min", "max", "p50", "p95", "p99")),
        "centroids": [],
    }


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("", 400, "endpoint"),
        ("?endpoint=", 400, "endpoint"),
        ("?endpoint=/nobody", 404, None),
        ("?endpoint=%FF", 404, None),
        ("?endpoint=/cart&from=-25h", 400, "to"),
        ("?endpoint=/cart&from=now&to=-1m", 400, "from"),
        ("?endpoint=/cart&from=soon", 400, "from"),
        ("?endpoint=/cart&consistency=old", 400, "consistency"),
    ],
)
async def test_what_cannot_be_answered_names_the_parameter(query: str, status: int, field: str):
    cluster = cluster_of("w1")
    cluster.put("/cart", NOW, stats_of([7.0]))
    async with running_worker(cluster) as worker:
        problem = await worker.json(PATH + query, status)
    assert [each["field"] for each in problem.get("errors", ())] == [field] * (field is not None)


async def test_a_partition_that_is_restored_is_503_and_a_standby_may_answer_for_it():
    cluster = cluster_of("w1")
    cluster.put("/cart", NOW, stats_of([7.0]))
    cluster.restoring = set(range(PARTITIONS))
    async with running_worker(cluster) as worker:
        await worker.json(asked("/cart"), 503)
        cluster.standbys = {"w1": set(range(PARTITIONS))}
        answer = await worker.json(asked("/cart", "&consistency=stale"))
    assert (answer["role"], answer["digest"]["count"]) == ("standby", 1)
