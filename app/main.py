"""Composition root: the only place that knows everything.

:func:`build` declares (agents, commands) and touches nothing outside the process;
:func:`prepare` runs in a worker only, before it starts: own folder and port, broker, topics,
engine, web.
"""

from __future__ import annotations

import logging
import sys

from agents.log_events.agent import log_events_agent
from agents.normalise.agent import normalise_agents
from agents.windows.agent import windows_agent
from app.broker.catalogue import load_catalogue
from app.broker.embedded import ensure_broker
from app.broker.topics import ensure_topics
from app.engine.clock import SystemClock
from app.engine.engine import Engine
from app.engine.faust_app import EngineApp
from app.engine.metrics import EngineMetrics
from app.engine.spec import AgentSpec, EngineConfig
from app.engine.transaction import AtLeastOnceWriter, Probe, TransactionalWriter
from app.settings import CONFIG_DIR, Settings, SettingsError, load_settings
from app.slots import Slot, take_slot, web_port
from app.worker import PreparedWorker
from tables.windows.spec import WindowSpecError, WindowSpec, load_windows

logger = logging.getLogger(__name__)

TOPICS_TIMEOUT_S = 30.0


def no_probe(_step: str) -> None:
    """Nobody watches the steps of a commit."""


class Headrace(EngineApp):
    """The application: what was declared, and how to make it ready to run."""

    def __init__(self, settings: Settings, windows: tuple[WindowSpec, ...], probe: Probe) -> None:
        super().__init__(
            settings.group,
            broker="kafka://",
            web_bind=settings.web_bind,
            web_host=settings.advertised_host or settings.web_bind,
            datadir=settings.home,
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.session_timeout_ms / 5000,
            broker_max_poll_records=5_000,
            Worker=PreparedWorker,
        )
        self.settings = settings
        self.windows = windows
        self.probe = probe
        self.clock = SystemClock()
        self.specs: tuple[AgentSpec, ...] = (
            *normalise_agents(),
            log_events_agent(windows),
            windows_agent(windows),
        )
        for spec in self.specs:
            self.add_agent(spec.topic, settings.topic(spec.topic))

    def prepare(self) -> None:
        """Make everything ready that the worker needs before it starts. Blocks."""
        settings = self.settings
        slot = take_slot(settings.home)
        self._serve_on(web_port(settings.web_bind, settings.web_port))
        self.conf.datadir = slot.folder
        bootstrap = self._bootstrap()
        catalogue = load_catalogue(CONFIG_DIR / "topics.yaml")
        counts = ensure_topics(
            bootstrap,
            catalogue,
            namespace=settings.namespace,
            partitions=settings.partitions or (4 if settings.embedded else None),
            replication=settings.replication or (1 if settings.embedded else 3),
            timeout_s=TOPICS_TIMEOUT_S,
        )
        partitions = {name: counts[settings.topic(name)] for name in catalogue.names}
        self.use_broker(bootstrap)
        self.engine = self._engine(slot, bootstrap, partitions)

    def _bootstrap(self) -> str:
        broker = self.settings.broker
        if broker is None:
            return ensure_broker(self.settings.home, progress=logger.info).bootstrap
        return ",".join(part.removeprefix("kafka://") for part in broker.split(";"))

    def _serve_on(self, port: int) -> None:
        self.conf.web_port = port
        self.conf.canonical_url = f"http://{self.conf.web_host}:{port}"  # type: ignore[assignment]

    def _engine(self, slot: Slot, bootstrap: str, partitions: dict[str, int]) -> Engine:
        settings = self.settings
        config = EngineConfig(
            group=settings.group,
            bootstrap=bootstrap,
            physical=settings.topic,
            partitions=partitions,
            transactional_id=f"{settings.group}-{slot.worker_id}",
            data_dir=slot.folder / (settings.namespace or "default"),
            worker=f"{self.conf.web_host}:{self.conf.web_port}",
            commit_interval_s=settings.commit_interval_ms / 1000,
            session_timeout_ms=settings.session_timeout_ms,
            state_memory_bytes=settings.state_memory_bytes,
        )
        writer = (
            TransactionalWriter(config, self.probe)
            if settings.guarantee == "exactly_once"
            else AtLeastOnceWriter(config, self.commit_plainly)
        )
        return Engine(config, self.specs, writer, self.clock, EngineMetrics(), self.probe)


def build(probe: Probe = no_probe) -> Headrace:
    """Declare the application from the settings; a wrong one ends the process with its name."""
    try:
        return Headrace(load_settings(), load_windows(CONFIG_DIR / "windows.yaml"), probe)
    except (SettingsError, WindowSpecError) as exc:
        sys.exit(f"headrace: {exc}")
