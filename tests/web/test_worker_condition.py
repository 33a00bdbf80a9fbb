"""Ready, healthy, measured; and errors that are always problem documents."""

from __future__ import annotations

import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import Counter

from tests.web.fakes import cluster_of, running_worker
from web.problem import problems


async def test_ready_is_503_with_the_reason_until_restored():
    cluster = cluster_of("w1")
    cluster.restoring = {2}
    async with running_worker(cluster) as worker:
        async with worker.client.get("/ready") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await response.json(content_type=None))["detail"] == "restoring [2]"
        cluster.restoring.clear()
        assert await worker.json("/ready") == {"ready": True, "worker": "w1"}


@pytest.mark.parametrize(
    ("overrides", "replication"),
    [
        ({}, 1),
        ({"broker": "kafka://a:9092"}, 3),
        ({"broker": "kafka://a:9092", "replication": 1}, 1),
    ],
)
async def test_health_says_when_one_disk_holds_everything(
    overrides: dict[str, object], replication: int
):
    async with running_worker(overrides=overrides) as worker:
        health = await worker.json("/api/v1/health")
    assert (health["status"], health["replication"]) == ("UP", replication)
    assert bool(health["warnings"]) == (replication == 1)


async def test_health_is_503_with_the_reason_while_something_stands_still():
    cluster = cluster_of("w1")
    cluster.stalled["w1"] = "window-partials/2 has committed nothing for 31 s: 7 records to read"
    async with running_worker(cluster) as worker:
        async with worker.client.get("/api/v1/health") as response:
            assert response.status == 503
            assert response.content_type == "application/problem+json"
            assert response.headers["Retry-After"] == "5"
            assert (await response.json(content_type=None))["detail"] == cluster.stalled["w1"]
        cluster.stalled.clear()
        assert (await worker.json("/api/v1/health"))["status"] == "UP"


async def test_a_ledger_that_does_not_balance_is_a_warning_and_no_reason_to_restart():
    cluster = cluster_of("w1")
    three = {"broker": "kafka://a:9092", "replication": 3}
    async with running_worker(cluster, overrides=three) as worker:
        assert (await worker.json("/api/v1/health"))["warnings"] == []
        cluster.alerts["w1"] = "the ledger does not balance"
        health = await worker.json("/api/v1/health")
    assert (health["status"], health["warnings"]) == ("UP", ["the ledger does not balance"])


async def test_a_history_that_is_not_written_is_a_warning_until_it_is():
    cluster = cluster_of("w1")
    three = {"broker": "kafka://a:9092", "replication": 3}
    async with running_worker(cluster, overrides=three) as worker:
        cluster.alerts["w1"], cluster.unwritten["w1"] = "the ledger", "the history"
        health = await worker.json("/api/v1/health")
        assert (health["status"], health["warnings"]) == ("UP", ["the ledger", "the history"])
        cluster.alerts.clear()
        cluster.unwritten.clear()
        assert (await worker.json("/api/v1/health"))["warnings"] == []


async def test_metrics_are_prometheus_text_and_do_not_shadow_the_request_counts():
    async with running_worker() as worker:
        Counter("seen", "Seen", registry=worker.registry).inc(3)
        async with worker.client.get("/metrics") as response:
            assert response.content_type == "text/plain"
            assert "seen_total 3.0" in await response.text()
        assert await worker.json("/metrics/requests") == {}


async def test_an_unknown_route_is_a_404_problem():
    async with running_worker() as worker, worker.client.get("/nope") as response:
        assert response.content_type == "application/problem+json"
        assert await response.json(content_type=None) == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "no endpoint at /nope",
        }


async def test_a_failure_is_a_500_without_internals_and_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
):
    async def fails(_request: web.Request) -> web.Response:
        raise RuntimeError("the password is hunter2")

    app = web.Application(middlewares=[problems])
    app.router.add_get("/", fails)
    caplog.set_level(logging.INFO, "web")
    async with TestClient(TestServer(app)) as client, client.get("/") as response:
        assert response.status == 500
        assert "hunter2" not in await response.text()
        assert (await response.json(content_type=None))["title"] == "Internal Server Error"
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_redirects_and_not_modified_pass_through():
    async def moved(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    app = web.Application(middlewares=[problems])
    app.router.add_get("/", moved)
    async with (
        TestClient(TestServer(app)) as client,
        client.get("/", allow_redirects=False) as response,
    ):
        assert (response.status, response.headers["Location"]) == (302, "/elsewhere")
