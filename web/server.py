"""Everything this worker answers over HTTP, put onto the server that Faust owns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.engine.query import Queries
from app.settings import Settings
from tables.windows.spec import WindowSpec
from web.api import api_routes
from web.api.accepted import described_parameters
from web.api.operations import OPERATIONS
from web.fixed_windows import ERRORS_WINDOW, REQUESTS_WINDOW, TRENDS_WINDOW
from web.gateway.logs import LogsGateway
from web.live.feed import REPORT_PATH, LiveFeed, no_alert
from web.origin import own_pages
from web.page import page_routes
from web.peers import Peers
from web.problem import Kind, ProblemError, problems
from web.queries import (
    consumers,
    digests,
    ledger,
    monitoring,
    requests,
    trends,
    window_pages,
    windows,
)
from web.queries.archive import Archive
from web.queries.condition import Condition
from web.runner import ERRORS, error_counter


class Room(Protocol):
    """A part of the web server that brings its own endpoints."""

    def install(self, web_app: web.Application, peers: Peers) -> None:
        """Add them to a not yet started app."""
        ...


@dataclass(frozen=True, slots=True)
class WebDeps:
    """What the web asks of the rest of the worker. ``clock`` gives epoch milliseconds.

    The feed is started and stopped with the web server; whatever is behind the gateway
    (the producer) by whoever made it. ``sources`` are the agents' topics, which the ledger
    accounts for, ``audit`` gives its last audit, ``unwritten`` why this worker's share of the
    history is not written, "" while it is.
    """

    settings: Settings
    queries: Queries
    windows: tuple[WindowSpec, ...]
    gateway: LogsGateway
    live: LiveFeed
    clock: Callable[[], int]
    registry: CollectorRegistry
    archive: Archive
    sources: tuple[str, ...] = ()
    audit: ledger.LastVerdict = ledger.no_verdict
    rooms: tuple[Room, ...] = ()
    unwritten: Callable[[], str] = no_alert


def declared(specs: Sequence[WindowSpec], name: str) -> WindowSpec:
    """The window of that name; :class:`LookupError` when it is not declared."""
    for spec in specs:
        if spec.name == name:
            return spec
    raise LookupError(
        f"windows.yaml declares no window {name!r}, which the live page shows: add it back"
    )


def _undeclared(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        raise ProblemError(
            Kind.NOT_FOUND, f"this answers from the window {name!r}, which windows.yaml lacks"
        )

    return answer


def _views(path: str, handler: monitoring.Handler) -> list[web.RouteDef]:
    """A view for everybody, and for workers that ask a standby."""
    return [web.get(path, handler), web.get(monitoring.standby_path(path), handler)]


def _view_routes(deps: WebDeps, peers: Peers) -> list[web.AbstractRouteDef]:
    """Views over single windows; one whose window is not declared says so."""
    specs = {spec.name: spec for spec in deps.windows}
    minutes = declared(deps.windows, REQUESTS_WINDOW)
    counts = requests.RequestCounts(deps.queries, peers, minutes, deps.clock)
    views = monitoring.Monitoring(deps.queries, peers, minutes, deps.clock)
    distributions = digests.LatencyDigests(deps.queries, peers, minutes, deps.clock)
    errors, sliding = specs.get(ERRORS_WINDOW), specs.get(TRENDS_WINDOW)
    routes: list[web.AbstractRouteDef] = [
        web.get(requests.PATH, counts.handle),
        web.get(requests.REPORT_PATH, counts.report),
        *_views(monitoring.LATENCY_PATH, views.latencies),
        web.get(digests.PATH, distributions.handle),
        *_views(monitoring.ANOMALIES_PATH, views.anomalies),
        *_views(
            monitoring.ERRORS_PATH,
            _undeclared(ERRORS_WINDOW) if errors is None else views.error_rates_of(errors),
        ),
    ]
    if sliding is None:
        handlers = [_undeclared(TRENDS_WINDOW)] * 3
    else:
        moving = trends.Trends(deps.queries, peers, sliding, deps.clock, deps.registry)
        handlers = [moving.all, moving.one, moving.history]
    paths = (trends.PATH, f"{trends.PATH}/{{service}}", f"{trends.PATH}/{{service}}/history")
    return [*routes, *(web.get(path, at) for path, at in zip(paths, handlers, strict=True))]


def build_routes(deps: WebDeps, peers: Peers) -> list[web.AbstractRouteDef]:
    """Every route of the worker, the page's among them."""
    alerts = (deps.live.alert, deps.unwritten)
    condition = Condition(deps.settings, deps.queries, deps.registry, alerts)
    of_windows = windows.WindowQueries(deps.queries, peers, deps.windows, deps.clock, deps.archive)
    pages = window_pages.WindowPages(deps.queries, peers, deps.windows)
    accounts = ledger.Ledger(deps.queries, peers, deps.sources, deps.audit)
    return [
        web.post("/api/v1/logs", deps.gateway.handle),
        web.post("/api/v1/logs/ingest", deps.gateway.handle),
        web.get(f"{window_pages.PATH}/{{name}}", pages.page),
        web.get(f"{window_pages.PATH}/{{name}}/{{key:.+}}", of_windows.one),
        web.get(ledger.PATH, accounts.handle),
        web.get(consumers.PATH, consumers.Consumers(deps.queries, peers, deps.sources).handle),
        web.get("/metrics", condition.metrics),
        *_view_routes(deps, peers),
        web.get("/ready", condition.ready),
        web.get("/api/v1/health", condition.health),
        web.get(REPORT_PATH, deps.live.report),
        web.get("/ws/metrics", deps.live.hub.handle, allow_head=False),
        *api_routes(),
        *page_routes(),
    ]


def install(web_app: web.Application, deps: WebDeps) -> None:
    """Add routes, problem documents and the feed's start and stop to a not yet started app.

    Bodies are bounded where they are read, because the limit of an application that
    Faust has made cannot be set from outside.
    """
    peers = Peers(deps.queries.worker)

    async def start(_app: web.Application) -> None:
        await peers.open()
        await deps.live.start(peers)

    async def stop(_app: web.Application) -> None:
        # Before the server waits for its handlers: pages would hold it for a minute.
        await deps.live.stop()

    async def close(_app: web.Application) -> None:
        await peers.close()

    web_app[ERRORS] = error_counter(deps.registry)
    web_app.middlewares.extend([problems, own_pages, described_parameters(OPERATIONS)])
    web_app.add_routes(build_routes(deps, peers))
    for room in deps.rooms:
        room.install(web_app, peers)
    web_app.on_startup.append(start)
    web_app.on_shutdown.append(stop)
    web_app.on_cleanup.append(close)
