"""Web servers of workers that share entity tables kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry

from app.engine.batch import Headers
from app.engine.driver import ManualClock
from app.engine.partitioner import partition_for
from app.engine.query import NotOwnedError, NotReadyError, Owner
from app.settings import Settings
from tables.entities.event import entity_key
from tables.entities.snapshot import digest
from tables.entities.spec import EntitySpecs
from tables.entities.state import ENTITIES_TABLE, EntityState, state_value
from tables.history.reader import History
from tests.entities.driving import NOW, SPECS, Entities
from tests.web.fakes import NO_HISTORY, MemoryQueries, MemoryTable, cluster_of
from tests.web.fakes import Cluster as Owners
from web.entities.comparing import Latest
from web.entities.room import EntityRoom
from web.peers import Peers
from web.problem import problems
from web.queries.archive import Archive

PATH = "/api/v1/entities"
TOKEN = "a-token-of-the-tests"  # noqa: S105 - not a secret


class EntityRows(MemoryQueries):
    """One worker's view of the entities' tables."""

    def __init__(self, worker: str, cluster: Owners) -> None:
        super().__init__(worker, cluster)
        self.reads = 0

    def _owner(self, topic: str, partition: int) -> Owner:
        assert topic == "entity-events"
        owner = self._cluster.owners[partition]
        return Owner(partition, self._cluster.urls.get(owner or ""), owner == self._worker)

    def table(self, topic: str, partition: int, name: str) -> MemoryTable:
        if not self._owner(topic, partition).local:
            raise NotOwnedError(f"{partition} is elsewhere")
        if partition in self._cluster.restoring:
            raise NotReadyError(f"{topic}/{partition} is being restored")
        self.reads += 1
        return self._cluster.table(partition, name)

    def staleness_ms(self, topic: str, partition: int) -> int:  # noqa: ARG002 - the port's signature
        return 7

    def standbys(self, topic: str, partition: int) -> list[str]:
        assert topic == "entity-events"
        return super().standbys("window-partials", partition)


@dataclass
class Sink:
    """Keeps what it is sent; ``failure`` is raised instead when set."""

    sent: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    failure: Exception | None = None

    async def produce(
        self, topic: str, records: Sequence[tuple[bytes, bytes]], headers: Headers = ()
    ) -> None:
        assert not headers
        if self.failure is not None:
            raise self.failure
        self.sent += [(topic, key, value) for key, value in records]


@dataclass
class TopicCopy:
    """The topic as the agent would have left it: one record for each state, then more."""

    cluster: Owners
    extra: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)
    failure: Exception | None = None
    stopped: bool = False
    closed: int = 0

    def end(self, partition: int) -> int:
        return len(self.cluster.table(partition, ENTITIES_TABLE).rows)

    def read(self, partition: int) -> Latest:
        if self.failure is not None:
            raise self.failure
        values = {
            key: state_value(state)
            for key, state in self.cluster.table(partition, ENTITIES_TABLE).rows.items()
        }
        latest = Latest(records=len(values))
        changed = {**values, **self.extra.get(partition, {})}
        for offset, (key, value) in enumerate(changed.items()):
            latest.keys[key] = (None if value is None else digest(key, value), offset)
        return latest

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed += 1


@dataclass
class World:
    """Workers over the same rows; ``entities`` feeds them through the real agent."""

    owners: Owners
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    entities: Entities = field(default_factory=Entities)
    restore_s: float = 0.0
    """How long partitions that are rebuilt are not there."""
    renewed: list[str] = field(default_factory=list)
    """Workers whose partitions were rebuilt."""

    async def renew(self, worker: str) -> int:
        """As the engine does: the worker's partitions are restored by and by."""
        mine = {p for p, owner in self.owners.owners.items() if owner == worker}
        self.renewed.append(worker)
        if self.restore_s:
            restoring, self.owners.restoring = self.owners.restoring, mine
            loop = asyncio.get_running_loop()
            loop.call_later(self.restore_s, setattr, self.owners, "restoring", restoring)
        return len(mine)

    def feed(self, entity_id: str, *events: dict[str, Any]) -> int:
        """Events of an entity through the agent, and its rows to where queries look.

        Returns the entity's partition.
        """
        self.entities.feed(entity_id, events)
        for task_id, task in self.entities.driver.tasks.items():
            for name in task.layers:
                rows = self.owners.table(task_id.partition, name).rows
                rows.clear()
                rows.update(task.table(name).range(b"", None, limit=1_000_000))
        return partition_of(entity_id)

    def put(self, entity_id: str, state: EntityState) -> None:
        """A state as if it had been committed."""
        key = entity_key("device", entity_id)
        self.owners.table(partition_of(entity_id), ENTITIES_TABLE).rows[key] = state


def partition_of(entity_id: str) -> int:
    """Where an entity lives."""
    return partition_for(entity_key("device", entity_id), 4)


def owned_by(worker: str, owners: Owners) -> str:
    """An id of an entity of that worker."""
    return next(f"d-{n}" for n in range(1_000) if owners.owners[partition_of(f"d-{n}")] == worker)


@dataclass
class Worker:
    """A running web server and what is behind it."""

    client: TestClient[web.Request, web.Application]
    queries: EntityRows
    sink: Sink
    topic: TopicCopy
    registry: CollectorRegistry

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON and headers."""
        async with self.client.request(method, path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON."""
        status, answer, _ = await self.call("GET", path)
        return status, answer


@asynccontextmanager
async def serving(
    world: World,
    name: str = "w1",
    specs: EntitySpecs | None = None,
    history: Path = NO_HISTORY,
    **settings: Any,
) -> AsyncIterator[Worker]:
    """A worker's web server with nothing but the entities' endpoints."""
    queries, sink, topic = EntityRows(name, world.owners), Sink(), TopicCopy(world.owners)
    registry = CollectorRegistry()
    room = EntityRoom(
        Settings(**{"admin_token": TOKEN, **settings}),
        queries,
        SPECS if specs is None else specs,
        sink,
        topic,
        partial(world.renew, name),
        world.clock,
        registry,
        Archive(History(history, "")),
    )
    peers = Peers(name)
    app = web.Application(middlewares=[problems])
    room.install(app, peers)
    server = TestServer(app)
    async with TestClient(server) as client:
        await peers.open()
        world.owners.urls[name] = str(server.make_url("")).rstrip("/")
        try:
            yield Worker(client, queries, sink, topic, registry)
        finally:
            await peers.close()


def world_of(*workers: str) -> World:
    """Partitions dealt out in turn."""
    return World(cluster_of(*workers))
