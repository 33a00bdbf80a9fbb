"""What is no HTTP, and whatever else no middleware meets, is a counted problem document too."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp import web

from tests.web.fakes import Worker, running_worker
from web.runner import DETAIL_MAX

HOST = b"Host: a\r\n"
PLAIN = "this is not a valid HTTP/1.1 request: "


async def said(worker: Worker, request: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """Status, headers and document of the answer to these bytes, which ends the connection."""
    server = worker.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, json.loads(body)


def errors(worker: Worker, status: int) -> float:
    return worker.registry.get_sample_value("http_errors_total", {"status": str(status)}) or 0.0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a greeting of TLS\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /ready HTTP/9.9\r\n" + HOST + b"\r\n",
        b"G@T /ready HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /ready HTTP/1.1\r\n" + HOST + b"X-Large: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /ready HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n",
        b"POST /api/v1/logs HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"POST /api/v1/logs HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_problem_that_is_counted_and_not_logged(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO):
        async with running_worker() as worker:
            status, headers, document = await said(worker, request_bytes)
            assert errors(worker, 400) == 1
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert (document["type"], document["title"]) == ("about:blank", "Bad Request")
    detail = str(document["detail"])
    assert detail.startswith(PLAIN)
    assert len(PLAIN) < len(detail) <= len(PLAIN) + DETAIL_MAX
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_expectation_that_is_not_met_is_a_problem():
    async with running_worker() as worker:
        status, headers, document = await said(
            worker,
            b"GET /ready HTTP/1.1\r\n" + HOST + b"Expect: bread\r\nConnection: close\r\n\r\n",
        )
        assert errors(worker, 417) == 1
    assert (status, headers["content-type"]) == (417, "application/problem+json")
    assert "100-continue" in str(document["detail"])


async def test_errors_of_routes_are_counted_by_status_and_answers_are_not():
    async with running_worker() as worker:
        await worker.json("/ready")
        await worker.json("/nope", 404)
        await worker.json("/nope/either", 404)
        async with worker.client.put("/ready") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
        assert [errors(worker, status) for status in (200, 404, 405)] == [0, 2, 1]


async def test_what_breaks_outside_of_a_handler_is_a_500_and_in_the_log_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_: object) -> web.UrlMappingMatchInfo:
        raise RuntimeError("the password is hunter2")

    async with running_worker() as worker:
        monkeypatch.setattr(web.UrlDispatcher, "resolve", broken)
        answer = await worker.json("/ready", 500)
        assert errors(worker, 500) == 1
    assert answer["detail"] == "the server failed on this request; its log says why"
    assert len([record for record in caplog.records if record.exc_info]) == 1
