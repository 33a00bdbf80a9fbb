"""Reading a request body with a bound on what it decompresses to."""

from __future__ import annotations

import asyncio

from aiohttp import web

from web.problem import Kind, ProblemError

BODY_BYTES_MAX = 1 << 20
BODY_TIMEOUT_S = 30.0
SKIPPED_BYTES_MAX = 8 << 20


def _too_large(*, close: bool = False) -> ProblemError:
    return ProblemError(
        Kind.TOO_LARGE,
        f"the body is larger than {BODY_BYTES_MAX} bytes (after decompression): split the batch",
        close=close,
    )


async def read_body(request: web.Request) -> bytes:
    """The body, decompressed, at most :data:`BODY_BYTES_MAX` bytes.

    The server decompresses gzip as the body is read, a bounded piece at a time, so a
    body that expands beyond the limit is refused after the limit's worth of memory.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        _abandon(request)
        raise ProblemError(
            Kind.ENCODING, f"content encoding {encoding[:40]!r}: send gzip or nothing", close=True
        )
    if encoding == "identity" and (request.content_length or 0) > BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large(close=encoding == "gzip" and not await _skipped(request))
    except TimeoutError as exc:
        _abandon(request)
        raise ProblemError(
            Kind.SLOW_BODY, f"the body was not complete after {BODY_TIMEOUT_S:.0f} s", close=True
        ) from exc
    except web.RequestPayloadError as exc:
        _abandon(request)
        raise ProblemError(
            Kind.INVALID, "the body is broken off or not valid gzip", close=True
        ) from exc
    return bytes(body)


async def _skipped(request: web.Request) -> bool:
    """Read the rest of a compressed body, so that its sender sees the answer; not of a bomb."""
    skipped = 0
    async for chunk in request.content.iter_any():
        skipped += len(chunk)
        if skipped > SKIPPED_BYTES_MAX:
            _abandon(request)
            return False
    return True


def _abandon(request: web.Request) -> None:
    """Let the server close the connection after the answer, without reading on.

    It would go on to decompress for ten seconds, or log the broken gzip as its own
    failure; a time-out is how its reading on ends in silence.
    """
    request.content.set_exception(TimeoutError())
