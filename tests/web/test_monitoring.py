"""The monitoring views: error rates, latencies, three-sigma flags, over all workers."""

from __future__ import annotations

import pytest

from tables.windows.stats import WindowStats
from tests.web.fakes import ERRORS, MINUTE, NOW, cluster_of, running_worker, stats_of
from web.queries.views import error_rate


def with_codes(**counts: int) -> WindowStats:
    codes = {int(name[1:]): count for name, count in counts.items()}
    errors = sum(count for code, count in codes.items() if code >= 400)
    return WindowStats(count=sum(codes.values()), errors=errors, codes=codes, lanes=("0/",))


def test_a44_2_the_error_rate_splits_into_client_and_server_errors() -> None:
    rate = error_rate("/pay", with_codes(c200=90, c404=3, c503=7))
    assert (rate.errorRate, rate.rate4xx, rate.rate5xx) == pytest.approx((0.10, 0.03, 0.07))
    assert rate.codes == {"200": 90, "404": 3, "503": 7}


async def test_errors_are_those_of_the_five_minutes_that_hold_now() -> None:
    cluster = cluster_of("w1")
    for minutes_ago in range(6):
        start = NOW - minutes_ago * MINUTE
        cluster.put("/pay", start, with_codes(c200=9, c503=1), ERRORS.name)
    async with running_worker(cluster) as worker:
        answer = await worker.json("/metrics/errors")
    (found,) = answer["found"]
    assert (found["endpoint"], found["count"], found["rate5xx"]) == ("/pay", 50, 0.1)
    assert (answer["from"], answer["to"]) == (NOW - 4 * MINUTE, NOW + MINUTE)
    assert answer["partial"] is False


async def test_latencies_of_one_endpoint_or_of_all() -> None:
    cluster = cluster_of("w1")
    cluster.put("/a", NOW - MINUTE, stats_of([float(ms) for ms in range(1, 101)]))
    cluster.put("/b", NOW, stats_of([5.0]))
    async with running_worker(cluster) as worker:
        everything = (await worker.json("/metrics/latency"))["found"]
        only = (await worker.json("/metrics/latency?endpoint=/a"))["found"]
    assert [each["endpoint"] for each in everything] == ["/a", "/b"]
    assert only == everything[:1]
    assert only[0]["p95"] == pytest.approx(95, rel=0.01)
    assert only[0]["max"] == 100


async def test_a44_4_a_closed_window_beyond_three_sigma_is_told_and_an_open_one_is_not() -> None:
    cluster = cluster_of("w1")
    latencies = [90.0, 110.0] * 10 + [131.0, 500.0]
    for minutes_ago, latency in enumerate(reversed(latencies)):
        cluster.put("/a", NOW - minutes_ago * MINUTE, stats_of([latency] * 4))
    cluster.mark(NOW + 30_000)
    async with running_worker(cluster) as worker:
        (found,) = (await worker.json("/metrics/anomalies"))["found"]
    assert (found["endpoint"], found["metric"], found["value"]) == ("/a", "avg_latency", 131)
    assert (found["mean"], found["deviation"]) == (100, 10)
    assert (found["start"], found["end"]) == (NOW - MINUTE, NOW)


async def test_views_hold_what_every_worker_has_and_name_who_is_missing() -> None:
    cluster = cluster_of("w1", "w2")
    for key in ("/a", "/b", "/c", "/d", "/e"):
        cluster.put(key, NOW, stats_of([1.0]))
    async with running_worker(cluster, "w1") as one:
        async with running_worker(cluster, "w2"):
            answer = await one.json("/metrics/latency")
            assert [each["endpoint"] for each in answer["found"]] == ["/e", "/d", "/c", "/b", "/a"]
            assert answer["missing"] == []
        alone = await one.json("/metrics/latency")
        assert (alone["partial"], alone["missing"]) == (True, [cluster.urls["w2"]])
        assert 0 < len(alone["found"]) < 5
