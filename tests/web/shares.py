"""Workers that each tell of their own partitions of two topics, and are asked for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from app.engine.query import Owner
from tests.web.fakes import Cluster, MemoryQueries
from web.peers import Peers
from web.problem import problems

SOURCES = ("application-logs", "log-events")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def two() -> Cluster:
    """Four partitions, those of even numbers w1's, the others w2's."""
    return Cluster({0: "w1", 1: "w2", 2: "w1", 3: "w2"})


class Shares(MemoryQueries):
    """One worker's view of the two topics, whose partitions are dealt out alike."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        super().__init__(name, cluster)
        self.cluster = cluster

    def owners(self, topic: str) -> list[Owner]:
        assert topic in SOURCES
        return super().owners("window-partials")

    def mine(self) -> Iterator[tuple[str, int]]:
        """Topic and partition of each that this worker owns."""
        for topic in SOURCES:
            for partition, owner in self.cluster.owners.items():
                if owner == self.worker:
                    yield topic, partition


@asynccontextmanager
async def serving(
    cluster: Cluster, name: str, path: str, handler: Callable[[Peers], Handler]
) -> AsyncIterator[TestClient[Any, Any]]:
    """A worker's web server with one path, known to the cluster by its URL."""
    peers = Peers(name)
    app = web.Application(middlewares=[problems])
    app.add_routes([web.get(path, handler(peers))])
    server = TestServer(app)
    await peers.open()
    try:
        async with TestClient(server) as client:
            cluster.urls[name] = str(server.make_url("")).rstrip("/")
            yield client
    finally:
        await peers.close()


async def ask(client: TestClient[Any, Any], path: str, **headers: str) -> Any:
    """The answer to a GET, which must be 200."""
    async with client.get(path, headers=headers) as response:
        assert response.status == 200
        return await response.json()
