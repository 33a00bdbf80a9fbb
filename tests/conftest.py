"""One real Kafka for the whole run; for each test a namespace, and workers if it wants them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from app.broker.embedded import ensure_broker, stop_broker
from tests.system.harness import Cluster, Worker

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap ``host:port`` of the run's broker.

    An embedded one in a temporary folder, stopped when the run ends, unless
    HEADRACE_TEST_BROKER names a running one. Without a broker the tests fail.
    """
    if running := os.environ.get("HEADRACE_TEST_BROKER"):
        yield running
        return
    home = tmp_path_factory.mktemp("kafka")
    try:
        yield ensure_broker(home).bootstrap
    finally:
        stop_broker(home)


@pytest.fixture
def namespace() -> str:
    """A namespace no other test uses, so that every test has its own topics and group."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def cluster(kafka: str, namespace: str, tmp_path: Path) -> Cluster:
    """Where this test's workers run: a namespace and a home of their own."""
    return Cluster(kafka, namespace, tmp_path / "home")


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    """The workers a test has started and put here; they end with it."""
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.stop()
