"""Asking other workers: a worker that does not answer is left alone for a while, then asked."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from web import peers as module
from web.peers import BREAKER_FAILURES, PeerError, Peers


async def serving(port: int, asked: list[str]) -> TestServer:
    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app, port=port)
    await server.start_server()
    return server


async def test_the_breaker_opens_after_failures_in_a_row_and_closes_with_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BREAKER_S", 0.3)
    port, asked = unused_port(), []
    peers = Peers("w1")
    await peers.open()
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(BREAKER_FAILURES):
            with pytest.raises(PeerError, match="cannot be reached"):
                await peers.get(url, "/a", 1)
        server = await serving(port, asked)
        try:
            with pytest.raises(PeerError, match="times in a row"):
                await peers.get(url, "/b", 1)
            assert asked == []
            async with asyncio.timeout(10):
                while not asked:
                    try:
                        assert (await peers.get(url, "/c", 1)).status == 200
                    except PeerError:
                        await asyncio.sleep(0.02)
            assert (await peers.get(url, "/d", 1)).status == 200
            assert asked == ["/c", "/d"]
        finally:
            await server.close()
    finally:
        await peers.close()


async def test_an_answer_that_is_an_error_opens_no_breaker() -> None:
    app = web.Application()
    server = TestServer(app)
    await server.start_server()
    peers = Peers("w1")
    await peers.open()
    try:
        url = str(server.make_url("")).rstrip("/")
        for _ in range(BREAKER_FAILURES + 2):
            assert (await peers.get(url, "/nothing", 1)).status == 404
    finally:
        await peers.close()
        await server.close()
