"""Errors over HTTP: every one is an ``application/problem+json`` document (RFC 9457).

ProblemError            raised by a handler, answered as it says
aiohttp HTTPException   404, 405 and the like, raised by the router
what is no HTTP         400, see :mod:`web.runner`
anything else           500 without internals; the log has the traceback, once
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"


class Kind(Enum):
    """The problems this server knows: (slug of ``type``, status, ``title``)."""

    INVALID = ("invalid-request", 400, "The request is not valid")
    UNAUTHORIZED = ("unauthorized", 401, "A bearer token is needed")
    FORBIDDEN = ("forbidden-origin", 403, "This origin may not connect")
    NOT_ADMIN = ("not-admin", 403, "This token may not do that")
    NOT_FOUND = ("not-found", 404, "There is nothing here")
    SLOW_BODY = ("slow-body", 408, "The body took too long to arrive")
    CONFLICT = ("conflict", 409, "Not in this state")
    GONE = ("gone", 410, "It is no longer here")
    TOO_LARGE = ("too-large", 413, "The request is too large")
    ENCODING = ("unsupported-encoding", 415, "The content encoding is not supported")
    THROTTLED = ("throttled", 429, "Too many events")
    UNAVAILABLE = ("unavailable", 503, "Not available at the moment")
    OWNER_UNREACHABLE = ("owner-unreachable", 504, "The owning worker did not answer")

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class ItemError:
    """What is wrong with one field of one item; ``index`` counts items from 0."""

    index: int
    field: str
    reason: str


class ProblemError(Exception):
    """An answer that is an error.

    ``retry_after_s`` becomes the Retry-After header; ``extra`` further members of the
    document; ``close`` ends the connection, when the rest of the request is not read.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: Sequence[ItemError] = (),
        retry_after_s: int | None = None,
        extra: Mapping[str, object] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.extra = extra or {}
        self.close = close


def problem_response(problem: ProblemError) -> web.Response:
    """The response of a problem."""
    slug, status, title = problem.kind.value
    document: dict[str, object] = {
        "type": f"urn:headrace:problem:{slug}",
        "title": title,
        "status": status,
        "detail": problem.detail,
    }
    if problem.errors:
        document["errors"] = problem.errors
    document.update(problem.extra)
    headers = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.kind is Kind.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    response = web.Response(
        body=msgspec.json.encode(document),
        status=status,
        content_type=CONTENT_TYPE,
        headers=headers,
    )
    if problem.close:
        response.force_close()
    return response


def plain_problem(status: int, detail: str) -> web.Response:
    """The response of an error that has no type of its own."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type=CONTENT_TYPE
    )


def router_problem(request: web.BaseRequest, exc: web.HTTPException) -> web.Response:
    """The response of an error that aiohttp raised."""
    response = plain_problem(exc.status, _router_detail(request, exc))
    if "Allow" in exc.headers:
        response.headers["Allow"] = exc.headers["Allow"]
    return response


def _router_detail(request: web.BaseRequest, exc: web.HTTPException) -> str:
    if isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        return f"{request.method} is not answered here; try {allowed}"
    if isinstance(exc, web.HTTPNotFound):
        return f"no endpoint at {request.path}"
    if isinstance(exc, web.HTTPExpectationFailed):
        return "Expect: 100-continue is the only expectation that is met here"
    return exc.reason


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that turns every failure into a problem document."""
    try:
        return await handler(request)
    except ProblemError as exc:
        return problem_response(exc)
    except web.HTTPException as exc:
        if exc.status < 400:
            raise
        return router_problem(request, exc)
    except Exception as exc:
        if isinstance(exc, ConnectionError) and request.transport is None:
            raise  # the client has gone: there is nobody to answer, and nothing to log
        log.exception("%s %s failed", request.method, request.path)
        return plain_problem(500, "the server failed on this request; its log says why")


def json_response(data: object, status: int = 200) -> web.Response:
    """A JSON answer; statistics that are not finite numbers become null."""
    return web.Response(
        body=msgspec.json.encode(data), status=status, content_type="application/json"
    )
