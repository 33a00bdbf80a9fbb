"""What a worker serves and collects besides its agents: web, gateway, collectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.web_runner import BaseSite, SockSite
from faust.web.drivers.aiohttp import Web
from prometheus_client import REGISTRY

from agents.audit.facts import audited
from agents.audit.reader import AuditTarget
from agents.audit.rounds import AuditRounds
from agents.history.archiver import Archiver
from agents.history.target import ArchiverMetrics, ArchiveTarget
from agents.shipping.brokerlog import run_brokerlog
from agents.shipping.demo import run_demo
from agents.shipping.host import run_host
from agents.shipping.port import SinkError
from agents.topics import ENTITY_EVENTS, WINDOW_PARTIALS
from app.broker.keeper import keep_broker
from app.broker.properties import Layout
from app.engine.engine import Engine
from app.engine.epoch import TaskId
from app.engine.queries import EngineQueries
from app.kafka import Kafka
from app.models.event import LogEvent
from app.slots import StartUpError
from tables.history.datasets import DATASETS
from tables.history.objects import refusal
from tables.history.place import Bucket, Place
from tables.history.reader import History
from tables.history.store import StoreError
from web.entities.room import EntityRoom
from web.entities.statetopic import StateTopic
from web.fixed_windows import REQUESTS_WINDOW
from web.gateway.body import AUTO_DECOMPRESS
from web.gateway.logs import LogsGateway
from web.gateway.producer import IngestMetrics, IngestProducer, IngestUnavailable
from web.live.feed import LiveFeed
from web.queries.archive import Archive
from web.queries.sessions import SessionRoom
from web.runner import ProblemRunner
from web.server import WebDeps, declared, install

if TYPE_CHECKING:
    from app.main import Headrace


logger = logging.getLogger(__name__)

AUDIT = web.AppKey("audit", AuditRounds)


class PlainWeb(Web):
    """Faust's web server without Faust's own pages, which would tell anyone anything."""

    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()

    app: Headrace

    def __init__(self, app: Headrace) -> None:
        super().__init__(app)
        self._runner = ProblemRunner(self.web_app, access_log=None, auto_decompress=AUTO_DECOMPRESS)

    def _new_transport_tcp(self) -> BaseSite:
        # The port was taken before anything started; here its socket is handed over.
        listening = self.app.web_socket
        return (
            super()._new_transport_tcp() if listening is None else SockSite(self._runner, listening)
        )


class CollectorSink:
    """The gateway's producer as the collectors see it."""

    def __init__(self, producer: IngestProducer) -> None:
        self._producer = producer

    async def send(self, topic: str, events: Sequence[LogEvent]) -> None:
        """Send events; raises :class:`SinkError` when they may not have arrived."""
        try:
            await self._producer.send(topic, events)
        except IngestUnavailable as exc:
            raise SinkError(str(exc)) from exc


def ingest_producer(app: Headrace, bootstrap: str) -> IngestProducer:
    """The producer of the gateway and the collectors: its own, never the epoch's."""
    return IngestProducer(bootstrap, app.settings.topic, IngestMetrics(REGISTRY))


def install_web(app: Headrace, producer: IngestProducer, unwritten: Callable[[], str]) -> None:
    """Put gateway, queries and page onto the web server that Faust owns.

    ``unwritten``: why the history is not written, "" while it is.
    """
    engine, clock = app.engine, app.clock.now_ms
    queries = EngineQueries(engine, app, engine.clock)
    gateway = LogsGateway(producer, app.settings.ingest_rate, clock, REGISTRY)
    rounds = AuditRounds(
        audit_target(app),
        audited(app.windows, app.sessions),
        clock,
        REGISTRY,
        lambda: is_auditor(engine),
    )
    live = LiveFeed(declared(app.windows, REQUESTS_WINDOW), queries, clock, alert=rounds.alert)
    sources = tuple(spec.topic for spec in app.specs)
    archive = Archive(History(app.settings.history_place, app.settings.namespace))
    deps = WebDeps(
        app.settings,
        queries,
        app.windows,
        gateway,
        live,
        clock,
        REGISTRY,
        archive,
        sources,
        rounds.last,
        (
            SessionRoom(queries, app.sessions, clock, archive),
            entity_room(app, queries, producer, archive),
        ),
        unwritten,
    )
    web_app = app.web.web_app  # type: ignore[attr-defined]  # the driver is PlainWeb
    web_app[AUDIT] = rounds
    install(web_app, deps)


def entity_room(
    app: Headrace, queries: EngineQueries, producer: IngestProducer, archive: Archive
) -> EntityRoom:
    """The entities' endpoints of this worker."""
    config = app.engine.config
    return EntityRoom(
        app.settings,
        queries,
        app.entities,
        producer,
        StateTopic(config.bootstrap, config.physical),
        partial(app.engine.rebuild, ENTITY_EVENTS),
        app.clock,
        REGISTRY,
        archive,
    )


def check_history(place: Place) -> None:
    """Raise :class:`StartUpError` when the history's bucket refuses us.

    One that does not answer is told of only: the archiver tries again, and nothing else waits.
    """
    if not isinstance(place, Bucket):
        return
    try:
        reason = refusal(place)
    except StoreError as exc:
        logger.warning("history: %s; it is tried again, and the records wait in Kafka", exc)
        return
    if reason is not None:
        raise StartUpError(f"history: {reason}")


def archiver(app: Headrace, worker_id: str, kafka: Kafka) -> Archiver:
    """What writes this worker's share of the history."""
    settings = app.settings
    topics = {
        dataset.name: settings.topic(dataset.topic)
        for dataset in DATASETS.values()
        if dataset.topic in kafka.partitions
    }
    target = ArchiveTarget(
        kafka.bootstrap,
        settings.group,
        worker_id,
        topics,
        settings.history_place,
        settings.namespace,
        settings.session_timeout_ms,
    )
    return Archiver(target, app.clock, ArchiverMetrics(REGISTRY))


def audit_target(app: Headrace) -> AuditTarget:
    """Whom this worker's auditor audits: its own group."""
    config = app.engine.config
    return AuditTarget(
        config.bootstrap,
        config.group,
        config.physical,
        config.partitions,
        config.record_bytes_max,
    )


def is_auditor(engine: Engine) -> bool | None:
    """Whether the worker is the one of its group that audits; None between two assignments.

    The owner of one partition does, because the group always gives it to one worker and no
    other. It is one of those whose owners the live feed asks each second: so all hear of what
    was found.
    """
    if engine.membership is None:
        return None
    return TaskId(WINDOW_PARTIALS, 0) in engine.tasks


def collectors(
    app: Headrace, producer: IngestProducer, *, first: bool
) -> list[Coroutine[object, object, None]]:
    """What this worker does without being asked.

    It audits the ledger when it is its turn, and keeps the embedded broker up; the ``first`` of
    a machine ships what its settings say.
    """
    settings, clock = app.settings, app.clock
    sink = CollectorSink(producer)
    rounds = app.web.web_app[AUDIT]  # type: ignore[attr-defined]  # the driver is PlainWeb
    running: list[Coroutine[object, object, None]] = [rounds.run()]
    if settings.embedded:
        running.append(keep_broker(settings.home))
    if not first:
        return running
    if settings.collect:
        running.append(run_host(sink, clock=clock, folder=settings.home))
        if settings.embedded:
            log = Layout(settings.home).log
            running.append(run_brokerlog(sink, log, clock=clock, since_ms=clock.now_ms()))
    if settings.demo:
        running.append(run_demo(sink, clock=clock))
    return running
