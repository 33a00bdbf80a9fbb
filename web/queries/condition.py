"""What a worker says of itself: ready, healthy, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.engine.query import Queries
from app.settings import Settings
from web.problem import Kind, ProblemError, json_response

UNREPLICATED = (
    "topics have one replica: losing the broker's disk loses data. "
    "Use a cluster of three brokers (HEADRACE_BROKER) where that matters"
)


class Ready(msgspec.Struct, frozen=True):
    """Every partition of the worker is restored."""

    worker: str
    ready: Literal[True] = True


class Health(msgspec.Struct, frozen=True):
    """The worker's partitions move. ``replication``: copies of each record.

    ``warnings``: what durability lacks, and what no restart of the worker mends.
    """

    worker: str
    replication: int
    warnings: list[str]
    status: Literal["UP"] = "UP"


@dataclass(frozen=True, slots=True)
class Condition:
    """``GET /ready``, ``/api/v1/health`` and ``/metrics``.

    ``alerts``: each says what is wrong although everything moves, "" for nothing.
    """

    settings: Settings
    queries: Queries
    registry: CollectorRegistry
    alerts: Sequence[Callable[[], str]]

    async def ready(self, _request: web.Request) -> web.Response:
        """200 once every assigned partition is restored, 503 with what is awaited before."""
        ready, reason = self.queries.ready()
        if not ready:
            raise ProblemError(Kind.UNAVAILABLE, reason, retry_after_s=1)
        return json_response(Ready(self.queries.worker))

    async def health(self, _request: web.Request) -> web.Response:
        """200 while commits move positions on or nothing is behind, 503 with the reason otherwise.

        Warns when durability is that of one disk, and of what no restart of this worker mends.
        """
        live, reason = self.queries.live()
        if not live:
            raise ProblemError(Kind.UNAVAILABLE, reason, retry_after_s=5)
        replication = self.settings.replication or (1 if self.settings.embedded else 3)
        warnings = [UNREPLICATED] if replication == 1 else []
        warnings += [said for alert in self.alerts if (said := alert())]
        return json_response(Health(self.queries.worker, replication, warnings))

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus text. Rendered in a thread: many label sets take long."""
        text = await asyncio.get_running_loop().run_in_executor(
            None, generate_latest, self.registry
        )
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
