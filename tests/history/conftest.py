"""An object store for the run, and for each test a bucket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tables.history.place import Bucket
from tests.system.objectstore import ObjectStore


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The run's S3-compatible server."""
    store = ObjectStore(tmp_path_factory.mktemp("objects"))
    store.start()
    yield store
    store.stop()


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket no other test uses, and the environment that opens it."""
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return object_store.bucket(f"t-{uuid.uuid4().hex[:12]}")
