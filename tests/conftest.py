"""One real Kafka for the whole run, and a namespace of its own for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from app.broker.embedded import ensure_broker, stop_broker


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
