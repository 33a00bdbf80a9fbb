"""Which pages a browser may let speak to this server: its own."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from web.problem import Kind, ProblemError

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing; what they answer, a browser keeps from other pages by itself."""


def same_origin(origin: str | None, host: str) -> bool:
    """Whether a request with that Origin header comes from a page of that Host, or from no page.

    Other origins are refused: a browser sends cookies and reaches loopback for any page.
    """
    if origin is None:
        return True
    _, _, authority = origin.partition("://")
    return authority.lower() == host.lower() and host != ""


@web.middleware
async def own_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for what changes something and is sent by a page of another origin.

    A browser asks nobody before it posts text, and any page could so write events and
    entities to a worker on the loopback of who looks at it.
    """
    origin = request.headers.get("Origin")
    if request.method not in READING and not same_origin(origin, request.headers.get("Host", "")):
        raise ProblemError(
            Kind.FORBIDDEN,
            "pages of another origin may not send anything here; let a server of yours do it",
            close=True,
        )
    return await handler(request)
