"""Asking the other workers: one bounded HTTP request, one kind of failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import aiohttp
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState
from yarl import URL

FORWARDED: Final = "X-Headrace-Forwarded"
"""Names the worker a request comes from: it is answered here or not at all."""

ANSWER_BYTES_MAX: Final = 32 << 20
"""A month of minutes is about 12 MB."""
CONNECTIONS_MAX: Final = 64
BREAKER_FAILURES: Final = 3
"""Failures in a row after which a worker is not asked for a while."""
BREAKER_S: Final = 5.0
"""How long that is; then one question decides."""


class PeerError(Exception):
    """The worker did not answer in time, or not with HTTP. The text names it."""


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What another worker said, as it was said."""

    status: int
    body: bytes
    content_type: str
    retry_after: str | None


class Peers:
    """HTTP client for the other workers of the group. Open it on the loop that uses it."""

    def __init__(self, worker: str) -> None:
        """``worker``: the name of this one, by which the others know who asks."""
        self._worker = worker
        self._session: aiohttp.ClientSession | None = None
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=BREAKER_FAILURES, default_ttl=BREAKER_S
        )

    async def open(self) -> None:
        """Make the connection pool."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                headers={FORWARDED: self._worker},
            )

    async def close(self) -> None:
        """Close every connection; may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, url: str, path: str, timeout_s: float) -> PeerAnswer:
        """Answer to ``GET url + path`` (``path`` already percent-encoded, with its query).

        Raises :class:`PeerError` after ``timeout_s`` in all, when the worker cannot be
        reached, when it answers more than :data:`ANSWER_BYTES_MAX` bytes, and at once while
        its circuit breaker is open.
        """
        if self._session is None:
            raise PeerError("this worker's web server is stopping")
        breaker = await self._breakers.get_breaker(url)
        try:
            async with breaker:
                return await self._ask(self._session, url, path, timeout_s)
        except OpenedState as exc:
            raise PeerError(
                f"{url} has not answered {BREAKER_FAILURES} times in a row; "
                f"it is asked again within {BREAKER_S:g} s"
            ) from exc

    @staticmethod
    async def _ask(
        session: aiohttp.ClientSession, url: str, path: str, timeout_s: float
    ) -> PeerAnswer:
        target = URL(url.rstrip("/") + path, encoded=True)
        try:
            async with session.get(
                target, timeout=aiohttp.ClientTimeout(total=timeout_s), allow_redirects=False
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > ANSWER_BYTES_MAX:
                        raise PeerError(f"{url} answered more than {ANSWER_BYTES_MAX} bytes")
                return PeerAnswer(
                    response.status,
                    bytes(body),
                    response.content_type,
                    response.headers.get("Retry-After"),
                )
        except TimeoutError as exc:
            raise PeerError(f"{url} did not answer within {timeout_s:g} s") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise PeerError(f"{url} cannot be reached: {exc}") from exc
