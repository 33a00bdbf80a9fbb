"""Asking other workers: a worker that does not answer is left alone for a while, then asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from web import peers as module
from web.peers import BREAKER_FAILURES, PeerError, Peers


@asynccontextmanager
async def down(asked: list[str]) -> AsyncIterator[TestServer]:
    """A worker that does not listen until it is started; its address is nobody else's."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = TestServer(app, port=held.getsockname()[1], socket_factory=lambda *_: held)
        try:
            yield server
        finally:
            await server.close()


@asynccontextmanager
async def asking(breaker_s: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peers]:
    monkeypatch.setattr(module, "BREAKER_S", breaker_s)
    peers = Peers("w1")
    await peers.open()
    try:
        yield peers
    finally:
        await peers.close()


async def fail(peers: Peers, url: str) -> None:
    """As often in a row as opens the breaker."""
    for _ in range(BREAKER_FAILURES):
        with pytest.raises(PeerError, match="cannot be reached"):
            await peers.get(url, "/a", 60)


async def test_after_failures_in_a_row_a_worker_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    async with asking(3_600, monkeypatch) as peers, down(asked) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        await fail(peers, url)
        await worker.start_server()
        with pytest.raises(PeerError, match="times in a row"):
            await peers.get(url, "/b", 60)
        assert asked == []


async def test_after_a_while_it_is_asked_and_with_an_answer_it_is_so_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    async with asking(0.1, monkeypatch) as peers, down(asked) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        await fail(peers, url)
        await worker.start_server()
        async with asyncio.timeout(60):
            while not asked:
                with suppress(PeerError):
                    assert (await peers.get(url, "/c", 60)).status == 200
        assert (await peers.get(url, "/d", 60)).status == 200
        assert asked == ["/c", "/d"]


async def test_an_answer_that_is_an_error_opens_no_breaker() -> None:
    app = web.Application()
    server = TestServer(app)
    await server.start_server()
    peers = Peers("w1")
    await peers.open()
    try:
        url = str(server.make_url("")).rstrip("/")
        for _ in range(BREAKER_FAILURES + 2):
            assert (await peers.get(url, "/nothing", 60)).status == 404
    finally:
        await peers.close()
        await server.close()
