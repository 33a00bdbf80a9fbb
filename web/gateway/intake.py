"""What one ingest endpoint of a worker takes: at once, per second, and only once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from prometheus_client import Counter

from web.gateway.limits import TokenBucket
from web.gateway.producer import IngestUnavailable
from web.problem import Kind, ProblemError


def new_id() -> str:
    """Id of what comes in without one: a random UUID."""
    return str(uuid4())


class Intake:
    """Every refusal says when to come again (Retry-After)."""

    def __init__(
        self,
        what: str,
        *,
        again: str,
        rate: int,
        requests_max: int,
        clock: Callable[[], int],
        throttled: Counter,
    ) -> None:
        """``what`` comes in, at most ``rate`` of it a second; ``again`` tells a client to resend.

        ``clock`` gives epoch milliseconds; ``throttled`` counts the answers 429. With 1 MiB
        for each body, ``requests_max`` bounds the memory that requests take.
        """
        self._what = what
        self._again = again
        self._requests_max = requests_max
        self._clock = clock
        self._throttled = throttled
        self._bucket = TokenBucket(rate, clock())
        self._requests = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is read and acknowledged; 503 while too many are."""
        if self._requests >= self._requests_max:
            raise ProblemError(
                Kind.UNAVAILABLE, f"{self._requests_max} requests are under way", retry_after_s=1
            )
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def send(self, count: int, send: Callable[[], Awaitable[None]]) -> None:
        """Let ``count`` of it through; returns once ``send`` has.

        429, and nothing is sent, when that is more than the rate admits; 503 when ``send``
        raises :class:`IngestUnavailable`.
        """
        admission = self._bucket.take(count, self._clock())
        if not admission.admitted:
            self._throttled.inc()
            raise ProblemError(
                Kind.THROTTLED,
                f"this worker accepts fewer {self._what} per second (ingest_rate)",
                retry_after_s=-(-admission.wait_ms // 1000),
            )
        if admission.wait_ms:
            await asyncio.sleep(admission.wait_ms / 1000)
        try:
            await send()
        except IngestUnavailable as exc:
            raise ProblemError(
                Kind.UNAVAILABLE, f"{exc}; {self._again}", retry_after_s=exc.retry_after_s
            ) from exc
