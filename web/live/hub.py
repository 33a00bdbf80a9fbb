"""The pages that listen: each with an outbox of one message, the newest.

A page that cannot keep up misses messages; one whose connection takes nothing for
:data:`STALLED_S` is cut off. No page ever delays another or the sampler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import WSCloseCode, web

from web.origin import same_origin
from web.problem import Kind, ProblemError

CLIENTS_MAX: Final = 100
STALLED_S: Final = 5.0
HEARTBEAT_S: Final = 15.0
"""A page that vanished without a word is noticed after one and a half of these."""
GOODBYE_S: Final = 1.0


class _Client:
    """One connection: a slot for the next message, and a writer."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self._transport = transport
        self._slot: str | None = None
        self._filled = asyncio.Event()

    def put(self, text: str) -> None:
        """Replace the waiting message."""
        self._slot = text
        self._filled.set()

    async def write(self, first: str) -> None:
        """Send the first message, then whatever is newest.

        Until the connection ends or takes nothing more. What is newest never replaces the first.
        """
        text: str | None = first
        while True:
            if text is not None:
                try:
                    async with asyncio.timeout(STALLED_S):
                        await self.socket.send_str(text)
                except (TimeoutError, ConnectionError, RuntimeError):
                    self.cut()
                    return
            await self._filled.wait()
            self._filled.clear()
            text, self._slot = self._slot, None

    def cut(self) -> None:
        """End the connection without waiting for the other side."""
        if self._transport is not None:
            self._transport.abort()


class Hub:
    """WebSocket handler and distributor."""

    def __init__(self, greeting: Callable[[], str]) -> None:
        """``greeting`` gives the first message of a new connection."""
        self._greeting = greeting
        self._clients: set[_Client] = set()
        self._reserved = 0
        self._closing = False

    @property
    def clients(self) -> int:
        """Connections open now."""
        return len(self._clients)

    def push(self, text: str) -> None:
        """Hand the message to every page; returns at once."""
        for client in self._clients:
            client.put(text)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """``/ws/metrics``: 101, 403 for a foreign origin, 503 above :data:`CLIENTS_MAX`."""
        origin = request.headers.get("Origin")
        if not same_origin(origin, request.headers.get("Host", "")):
            raise ProblemError(
                Kind.FORBIDDEN, "pages of another origin may not open this connection"
            )
        if self._closing or self._reserved >= CLIENTS_MAX:
            raise ProblemError(
                Kind.UNAVAILABLE,
                "the worker is stopping"
                if self._closing
                else f"{CLIENTS_MAX} pages are connected already",
                retry_after_s=5,
            )
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False, max_msg_size=4096)
        if not socket.can_prepare(request).ok:
            raise ProblemError(Kind.INVALID, "this is a WebSocket: connect with an Upgrade header")
        self._reserved += 1
        try:
            await socket.prepare(request)
            await self._serve(_Client(socket, request.transport))
        finally:
            self._reserved -= 1
        return socket

    async def _serve(self, client: _Client) -> None:
        greeting = self._greeting()
        self._clients.add(client)
        writer = asyncio.create_task(client.write(greeting), name="live-page")
        try:
            # Pages have nothing to say; reading answers pings and notices the end.
            async for _ in client.socket:
                pass
        finally:
            self._clients.discard(client)
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer

    async def close(self) -> None:
        """Tell every page that this worker goes away; cut those that do not listen."""
        self._closing = True

        async def goodbye(client: _Client) -> None:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(GOODBYE_S):
                    await client.socket.close(code=WSCloseCode.GOING_AWAY)
                    return
            client.cut()

        await asyncio.gather(*(goodbye(client) for client in list(self._clients)))
