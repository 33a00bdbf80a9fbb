"""The HTTP server's last word: every error is a problem document, and counted.

What cannot be read as HTTP meets no route, so no middleware either: the parser's errors, and an
``Expect`` that nobody fulfils, are answered by aiohttp itself, in plain text.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from web.problem import plain_problem, router_problem

log = logging.getLogger(__name__)

DETAIL_MAX: Final = 200
"""Characters told of what could not be read."""


def error_counter(registry: CollectorRegistry) -> Counter:
    """Answers from 400 up, by status."""
    return Counter("http_errors", "Requests answered with an error", ["status"], registry=registry)


ERRORS: Final = web.AppKey("errors", Counter)
"""Where an application has its counter."""


class _Handler(web.RequestHandler):
    """A connection."""

    def __init__(self, server: web.Server, errors: Counter, **given: Any) -> None:
        super().__init__(server, **given)
        self._errors = errors

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that no handler could be asked, or whose handler broke; then close."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        if message is None:
            log.error("a request failed outside of its handler", exc_info=exc)
            said = "the server failed on this request; its log says why"
        else:
            line = message.strip().partition("\n")[0].rstrip(":")[:DETAIL_MAX]
            said = f"this is not a valid HTTP/1.1 request: {line}"
            # Of strangers there is one at every open port: they may not fill the log.
            log.debug("%s", said)
        response = plain_problem(status, said)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer: the one place that every answer passes."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = router_problem(request, resp)
        if resp.status >= 400:
            self._errors.labels(resp.status).inc()
        return await super().finish_response(request, resp, start_time)


class _Server(web.Server):
    """Makes the connections' handlers."""

    def __init__(self, made: web.Server, errors: Counter) -> None:
        """``made`` by the application: it has its routes and what the runner was told."""
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - as `Application` gave them
        )
        self._errors = errors

    def __call__(self) -> web.RequestHandler:
        return _Handler(self, self._errors, loop=self._loop, **self._kwargs)


class ProblemRunner(web.AppRunner):
    """Runs an application that has a counter at :data:`ERRORS`."""

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self.app[ERRORS])
