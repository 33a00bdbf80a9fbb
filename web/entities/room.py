"""The entities' part of a worker's web server."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.engine.clock import Clock
from app.engine.query import Queries
from app.settings import Settings
from tables.entities.spec import EntitySpecs
from web.entities.asked import PATH
from web.entities.cache import AnswerCache
from web.entities.gateway import EntityGateway, RecordSink
from web.entities.histories import EntityHistories
from web.entities.listing import EntityLists
from web.entities.reads import EntityReads
from web.entities.rebuild import PATH as REBUILD
from web.entities.rebuild import ROWS_PATH, Rebuilds, Renew, TopicReader
from web.peers import Peers
from web.queries.archive import Archive


@dataclass(frozen=True, slots=True)
class EntityRoom:
    """What the entities' endpoints ask of the rest of the worker."""

    settings: Settings
    queries: Queries
    specs: EntitySpecs
    sink: RecordSink
    topic: TopicReader
    renew: Renew
    clock: Clock
    registry: CollectorRegistry
    archive: Archive

    def install(self, web_app: web.Application, peers: Peers) -> None:
        """Add the endpoints to a not yet started app; a rebuild that runs ends with it."""
        cache = AnswerCache(self.clock.monotonic)
        gateway = EntityGateway(
            self.sink,
            self.specs,
            self.settings.ingest_rate,
            self.clock.now_ms,
            self.registry,
            cache,
        )
        reads = EntityReads(self.queries, peers, self.specs, cache)
        histories = EntityHistories(
            self.queries, peers, self.specs, self.archive, self.clock.now_ms
        )
        lists = EntityLists(self.queries, peers, self.specs)
        rebuilds = Rebuilds(
            self.queries,
            peers,
            self.topic,
            self.renew,
            self.settings.admin_token,
            self.clock.now_ms,
        )
        web_app.add_routes(
            [
                # First: these names are no types.
                web.post(REBUILD, rebuilds.start),
                web.get(f"{REBUILD}/{{report}}", rebuilds.report),
                web.get(f"{ROWS_PATH}/{{partition:[0-9]{{1,6}}}}", rebuilds.rows),
                web.get(f"{PATH}/{{type}}", lists.page),
                web.get(f"{PATH}/{{type}}/{{id}}", reads.one),
                web.get(f"{PATH}/{{type}}/{{id}}/history", histories.page),
                # An id that is missing is answered as one that is wrong: 400, by name.
                web.post(f"{PATH}/{{type}}", gateway.handle),
                web.post(f"{PATH}/{{type}}/{{id:[^/]*}}", gateway.handle),
            ]
        )

        async def stop(_app: web.Application) -> None:
            await rebuilds.stop()

        web_app.on_shutdown.append(stop)
