"""One real Kafka for the run, whatever its processes; a namespace and workers for each test."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import settings
from xdist.workermanage import WorkerController

from app.broker.embedded import ensure_broker, stop_broker
from tests.system.harness import Cluster, Worker

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")


KAFKA_HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """The broker's folder: the run's own, or, in a process of a parallel run, that of the run."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    config.stash[KAFKA_HOME] = Path(given.get("kafka_home") or mkdtemp(prefix="headrace-tests-"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tell a process of a parallel run of the folder."""
    node.workerinput["kafka_home"] = str(node.config.stash[KAFKA_HOME])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the broker, whichever process started it, once no process needs it."""
    if not hasattr(config, "workerinput"):
        stop_broker(config.stash[KAFKA_HOME])
        shutil.rmtree(config.stash[KAFKA_HOME])


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> str:
    """Bootstrap ``host:port`` of the run's broker.

    An embedded one in a temporary folder, which the first test that needs it starts, unless
    HEADRACE_TEST_BROKER names a running one. Without a broker the tests fail.
    """
    running = os.environ.get("HEADRACE_TEST_BROKER")
    return running or ensure_broker(pytestconfig.stash[KAFKA_HOME]).bootstrap


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
