"""The Faust application that runs the engine: agents, group, CLI and web stay Faust's."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import faust
from faust.exceptions import AlreadyConfiguredWarning
from faust.types import TP, StreamT

from app.engine.delivery import Delivery
from app.engine.engine import Engine
from app.engine.epoch import TaskCommit, TaskId
from app.engine.faust_assignor import StandbyAssignor
from app.engine.faust_consumer import BatchConsumer, BatchSchema, BatchTransport
from app.engine.faust_pinned import check_overrides
from app.engine.faust_static import DuplicateInstanceError
from app.engine.faust_tables import EngineTables
from app.engine.inbox import FetchBounds, fetch_bounds
from app.engine.membership import Membership
from app.engine.reading import LogEnd


class EngineApp(faust.App):
    """A Faust app whose agents get record batches. Bind the engine before it starts."""

    engine: Engine
    membership: Membership

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_overrides()
        super().__init__(
            *args,
            TableManager=EngineTables,
            processing_guarantee="at_least_once",
            PartitionAssignor=StandbyAssignor,
            topic_disable_leader=True,
            stream_wait_empty=True,
            # Never full: partitions pause at a few deliveries each, and may be 256.
            stream_buffer_maxsize=4_096,
            autodiscover=False,
            web_tables_enabled=False,
            **kwargs,
        )
        self._logical: dict[str, str] = {}

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def use_broker(self, bootstrap: str) -> None:
        """Talk to these brokers (``host:port,host:port``); call before the app starts."""
        url = "kafka://" + bootstrap.replace(",", ";")
        with warnings.catch_warnings():
            # Faust warns that transports may have the old address; they are made anew below.
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)
            self.conf.broker = self.conf.broker_consumer = self.conf.broker_producer = url  # type: ignore[assignment]
        self.transport = self._new_transport()
        self.producer_transport = self._new_producer_transport()

    def serve_on(self, port: int) -> None:
        """Web port and the URL that other workers and queries are told."""
        self.conf.web_port = port
        self.conf.canonical_url = f"http://{self.conf.web_host}:{port}"  # type: ignore[assignment]

    def owner_url(self, topic: str, partition: int) -> str | None:
        """URL of the worker that owns a partition (physical topic); None: not known yet."""
        for url, topics in self._assignor.external_topics_metadata().items():
            if partition in topics.get(topic, ()):
                return str(url).rstrip("/")
        return None

    def standby_urls(self, topic: str, partition: int) -> list[str]:
        """URLs of the other workers that keep a standby of a partition (physical topic)."""
        mine = str(self.conf.canonical_url).rstrip("/")
        return [url for url in self._assignor.standby_urls(topic, partition) if url != mine]

    def standby_topics(self) -> set[str]:
        """Physical topics whose partitions have state worth a standby."""
        engine = self.engine
        return {engine.config.physical(s.topic) for s in engine.specs.values() if s.tables}

    def assigned_standbys(self) -> set[TaskId]:
        """Partitions this worker is to keep a standby of."""
        topics = self.standby_topics()
        return {
            TaskId(self.logical(tp.topic), tp.partition)
            for tp in self._assignor.assigned_standbys()
            if tp.topic in topics
        }

    @cached_property
    def fetch_bounds(self) -> FetchBounds:
        """How much may be fetched and not yet processed."""
        config = self.engine.config
        partitions = sum(config.partitions[topic] for topic in self.engine.specs)
        return fetch_bounds(config.fetch_memory_bytes, partitions)

    @property
    def _batches(self) -> BatchConsumer:
        consumer: BatchConsumer = self.consumer  # type: ignore[assignment]
        return consumer

    @property
    def _assignor(self) -> StandbyAssignor:
        assignor: StandbyAssignor = self.assignor  # type: ignore[assignment]
        return assignor

    def logical(self, topic: str) -> str:
        """Catalogue name of a physical topic."""
        return self._logical.get(topic, topic)

    def add_agent(self, topic: str, physical: str) -> None:
        """Declare the agent of a topic: it hands every delivery to the engine."""
        self._logical[physical] = topic

        async def deliver(stream: StreamT[Delivery]) -> None:
            async for delivery in stream:
                try:
                    await self.engine.process(delivery)
                finally:
                    self._batches.processed(delivery)

        # Offsets are committed with the epoch: Faust need not track acknowledgements.
        channel = self.topic(physical, schema=BatchSchema(), acks=False)
        self.agent(channel, name=f"agents.{topic}")(deliver)

    async def on_start(self) -> None:
        """Bind the consumer to the engine and start committing."""
        await super().on_start()
        self.engine.flow = _Flow(self)
        self.add_future(self.engine.run())

    async def on_stop(self) -> None:
        """Hand over the partitions, then release the engine."""
        await super().on_stop()
        await self.engine.close()

    def fenced(self, error: DuplicateInstanceError) -> None:
        """End the worker: another one has its place. Called from the consumer's thread."""
        asyncio.run_coroutine_threadsafe(self.crash(error), self.loop)

    def commit_plainly(self, tasks: Mapping[TaskId, TaskCommit]) -> None:
        """Commit offsets without a transaction; called from the epochs thread, blocks it."""
        offsets = {
            TP(self.engine.config.physical(task.topic), task.partition): (
                commit.position,
                commit.metadata(),
            )
            for task, commit in tasks.items()
        }
        asyncio.run_coroutine_threadsafe(self._batches.commit_offsets(offsets), self.loop).result(
            30
        )


class _Flow:
    """The consumer as the engine sees it: tasks instead of physical partitions."""

    def __init__(self, app: EngineApp) -> None:
        self._app = app

    @property
    def _consumer(self) -> BatchConsumer:
        consumer: BatchConsumer = self._app.consumer  # type: ignore[assignment]
        return consumer

    def hold(self) -> None:
        self._consumer.hold()

    def _tp(self, task: TaskId) -> TP:
        return TP(self._app.engine.config.physical(task.topic), task.partition)

    def delivered(self, task: TaskId) -> int:
        return self._consumer.delivered(self._tp(task))

    def fetched(self, task: TaskId) -> int | None:
        return self._consumer.fetched(self._tp(task))

    def end(self, task: TaskId) -> int | None:
        return self._consumer.end(self._tp(task))

    def appended(self, task: TaskId) -> LogEnd | None:
        return self._consumer.appended(self._tp(task))

    def paused(self, task: TaskId) -> bool:
        return task in self._consumer.pausing.inbox.paused

    @property
    def held_bytes(self) -> int:
        return self._consumer.pausing.inbox.held_bytes

    async def release(self, positions: Mapping[TaskId, int]) -> None:
        physical = self._app.engine.config.physical
        await self._consumer.release(
            {TP(physical(t.topic), t.partition): at for t, at in positions.items()}
        )
        if self._app.rebalancing:
            self._app.on_rebalance_end()
