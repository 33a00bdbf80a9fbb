"""Reading a request body with a bound on what it decompresses to."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from aiohttp import web

from web.problem import Kind, ProblemError

AUTO_DECOMPRESS: Final = False
"""What the server's runner must be told: aiohttp's own decompression takes a gzip body that
was cut off for a whole one, and answers the encodings it lacks in plain text."""
GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
BODY_BYTES_MAX = 1 << 20
BODY_TIMEOUT_S = 30.0
SKIPPED_BYTES_MAX = 8 << 20


def _too_large(*, close: bool = False) -> ProblemError:
    return ProblemError(
        Kind.TOO_LARGE,
        f"the body is larger than {BODY_BYTES_MAX} bytes (after decompression): split the batch",
        close=close,
    )


class _Gunzip:
    """A gzip body (RFC 1952), member after member, as its bytes come in."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP_WBITS)
        self._fed = False

    @property
    def whole(self) -> bool:
        """Whether nothing is missing: the last member came with its check sum and length."""
        return self._member.eof or not self._fed

    def feed(self, chunk: bytes, room: int) -> bytes:
        """What ``chunk`` decompresses to, at most ``room`` bytes of it; raises ``zlib.error``."""
        self._fed = True
        found = bytearray()
        while chunk and len(found) < room:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP_WBITS)
            found += self._member.decompress(chunk, room - len(found))
            chunk = self._member.unused_data or self._member.unconsumed_tail
        return bytes(found)


async def read_body(request: web.Request) -> bytes:
    """The body, decompressed, at most :data:`BODY_BYTES_MAX` bytes.

    A body that expands beyond the limit is refused after the limit's worth of memory. The
    server must have been given :data:`AUTO_DECOMPRESS`.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        _abandon(request)
        raise ProblemError(
            Kind.ENCODING, f"content encoding {encoding[:40]!r}: send gzip or nothing", close=True
        )
    if encoding == "identity" and (request.content_length or 0) > BODY_BYTES_MAX:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(request, _Gunzip() if encoding == "gzip" else None)
    except TimeoutError as exc:
        _abandon(request)
        raise ProblemError(
            Kind.SLOW_BODY, f"the body was not complete after {BODY_TIMEOUT_S:.0f} s", close=True
        ) from exc
    except (web.RequestPayloadError, zlib.error) as exc:
        _abandon(request)
        raise _broken() from exc


def _broken() -> ProblemError:
    return ProblemError(Kind.INVALID, "the body is broken off or not valid gzip", close=True)


async def _read(request: web.Request, gunzip: _Gunzip | None) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk if gunzip is None else gunzip.feed(chunk, BODY_BYTES_MAX + 1 - len(body))
        if len(body) > BODY_BYTES_MAX:
            raise _too_large(close=gunzip is not None and not await _skipped(request))
    if gunzip is not None and not gunzip.whole:
        raise _broken()
    return bytes(body)


async def _skipped(request: web.Request) -> bool:
    """Read the rest of a compressed body, so that its sender sees the answer; not without end."""
    skipped = 0
    async for chunk in request.content.iter_any():
        skipped += len(chunk)
        if skipped > SKIPPED_BYTES_MAX:
            _abandon(request)
            return False
    return True


def _abandon(request: web.Request) -> None:
    """Let the server close the connection after the answer, without reading on.

    It would go on to read for ten seconds; a time-out is how its reading on ends in silence.
    """
    request.content.set_exception(TimeoutError())
