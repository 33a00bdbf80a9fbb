"""Composition root: the only place that knows everything.

:func:`build` declares (agents, commands) and touches nothing outside the process;
:meth:`Headrace.prepare` runs in a worker only, before it starts: own folder and port,
broker, topics, engine, web.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys

from agents.entities.agent import entities_agent
from agents.history.archiver import Archiver
from agents.log_events.agent import log_events_agent
from agents.normalise.agent import normalise_agents
from agents.sessions.agent import sessions_agent
from agents.windows.agent import windows_agent
from app.check_config import ConfigError, Declared, load_declared
from app.commands import register_commands
from app.engine.clock import SystemClock
from app.engine.engine import Engine
from app.engine.faust_app import EngineApp
from app.engine.metrics import EngineMetrics
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.transaction import AtLeastOnceWriter, Probe, TransactionalWriter
from app.kafka import Kafka, connect
from app.serving import (
    PlainWeb,
    archiver,
    check_history,
    collectors,
    ingest_producer,
    install_web,
)
from app.settings import Settings, SettingsError, load_settings
from app.slots import Slot, static_socket, take_slot, web_socket
from app.worker import PreparedWorker
from web.gateway.producer import IngestProducer

logger = logging.getLogger(__name__)

ARCHIVER_STOP_S = 10.0


def no_probe(_step: str) -> None:
    """Nobody watches the steps of a commit."""


class Headrace(EngineApp):
    """The application: what was declared, and how to make it ready to run."""

    def __init__(
        self,
        settings: Settings,
        declared: Declared,
        probe: Probe,
    ) -> None:
        super().__init__(
            settings.group,
            broker="kafka://",
            web_bind=settings.web_bind,
            web_host=settings.advertised_host or settings.web_bind,
            datadir=settings.home,
            broker_session_timeout=settings.session_timeout_ms / 1000,
            # A worker learns with its next heartbeat that another is gone: part of a take-over.
            broker_heartbeat_interval=min(0.5, settings.session_timeout_ms / 5000),
            table_standby_replicas=settings.standby_replicas,
            Worker=PreparedWorker,
        )
        self.settings = settings
        self.windows = declared.windows
        self.sessions = declared.sessions
        self.entities = declared.entities
        self.clock = SystemClock()
        self._probe = probe
        self.web_socket: socket.socket | None = None
        self._ingest: IngestProducer | None = None
        self._archiver: Archiver | None = None
        self._first = False
        self.specs: tuple[AgentSpec, ...] = (
            *normalise_agents(),
            log_events_agent(declared.windows, declared.sessions),
            windows_agent(declared.windows),
            sessions_agent(declared.sessions),
            entities_agent(declared.entities),
        )
        for spec in self.specs:
            self.add_agent(spec.topic, settings.topic(spec.topic))

    def _new_web(self) -> PlainWeb:
        return PlainWeb(self)

    def prepare(self) -> None:
        """Make everything ready that the worker needs before it starts. Blocks."""
        settings = self.settings
        check_history(settings.history_place)
        slot = take_slot(settings.home)
        self._listen(slot)
        self.conf.datadir = slot.folder
        kafka = connect(settings, progress=logger.info)
        self.use_broker(kafka.bootstrap)
        self.engine = self._engine(slot, kafka)
        self._ingest = ingest_producer(self, kafka.bootstrap)
        self._archiver = archiver(self, slot.worker_id, kafka)
        # Readings of this machine are shipped once, by the first of its workers.
        self._first = slot.number == 0
        install_web(self, self._ingest, self._archiver.alert)

    def _listen(self, slot: Slot) -> None:
        bind, wanted = self.settings.web_bind, self.settings.web_port
        static = self.settings.static_membership
        self.web_socket = static_socket(slot, bind, wanted) if static else web_socket(bind, wanted)
        port = self.web_socket.getsockname()[1]
        self.serve_on(port)
        if static:
            # The address is part of it: a member that comes back is known by where it joined.
            name = f"{self.settings.group}-{slot.worker_id}-{self.conf.web_host}-{port}"
            self.conf.consumer_group_instance_id = re.sub(r"[^a-zA-Z0-9._-]", ".", name)

    def _engine(self, slot: Slot, kafka: Kafka) -> Engine:
        settings = self.settings
        config = EngineConfig(
            group=settings.group,
            bootstrap=kafka.bootstrap,
            physical=settings.topic,
            partitions=kafka.partitions,
            transactional_id=f"{settings.group}-{slot.worker_id}",
            data_dir=slot.folder / (settings.namespace or "default"),
            worker=f"{self.conf.web_host}:{self.conf.web_port}",
            commit_interval_s=settings.commit_interval_ms / 1000,
            session_timeout_ms=settings.session_timeout_ms,
            state_memory_bytes=settings.state_memory_bytes,
            fetch_memory_bytes=settings.fetch_memory_bytes,
            record_bytes_max=kafka.record_bytes_max,
        )
        writer = (
            TransactionalWriter(config, self._probe, self.clock)
            if settings.guarantee == "exactly_once"
            else AtLeastOnceWriter(config, self.commit_plainly)
        )
        return Engine(config, self.specs, writer, self.clock, EngineMetrics(), self._probe)

    async def on_start(self) -> None:
        """Start the gateway's producer and the collectors with the application."""
        await super().on_start()
        if self._ingest is not None:
            self._ingest.start()
            if self._archiver is not None:
                self._archiver.start()
            for collector in collectors(self, self._ingest, first=self._first):
                self.add_future(collector)
        logger.info("Headrace's page: %s", self.conf.canonical_url)

    async def on_stop(self) -> None:
        """Stop taking events in, then hand over."""
        if self._ingest is not None:
            await self._ingest.stop()
        if self._archiver is not None:
            await asyncio.to_thread(self._archiver.stop, ARCHIVER_STOP_S)
        await super().on_stop()


def build(probe: Probe = no_probe) -> Headrace:
    """Declare the application from the settings; a wrong one ends the process with its name."""
    try:
        settings = load_settings()
        declared = load_declared(settings)
    except (SettingsError, ConfigError) as exc:
        sys.exit(f"headrace: {exc}")
    register_commands(settings)
    return Headrace(settings, declared, probe)
