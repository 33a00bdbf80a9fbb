"""The archiver with an object store on a real broker: killed, and without its store for a while."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tables.history.place import Bucket
from tables.history.ranges import cover
from tests.history.archiving import Log, Process, archived, complete, store_of
from tests.system.harness import wait_for
from tests.system.objectstore import ACCESS_KEY, SECRET_KEY, ObjectStore

pytestmark = pytest.mark.broker


@pytest.fixture
def log(kafka: str, namespace: str) -> Log:
    return Log(kafka, f"{namespace}.windows-final")


class Archivers:
    """Archivers of one topic into one bucket, one after the other."""

    def __init__(self, log: Log, bucket: Bucket, store: ObjectStore, folder: Path) -> None:
        self._log, self._bucket, self._store, self._folder = log, bucket, store, folder
        self.started: list[Process] = []

    def start(self) -> Process:
        aws = self._store.environment()
        process = Process(self._log, self._bucket, self._folder, environment=aws)
        self.started.append(process)
        return process

    def told(self) -> str:
        return (self._folder / "one.log").read_text()


@pytest.fixture
def archivers(
    log: Log, bucket: Bucket, object_store: ObjectStore, tmp_path: Path
) -> Iterator[Archivers]:
    made = Archivers(log, bucket, object_store, tmp_path)
    yield made
    for each in made.started:
        each.process.kill()
        each.process.wait()
    object_store.stop()
    object_store.start()


def test_each_final_is_in_the_bucket_exactly_once_through_kills_and_an_outage_of_the_store(
    log: Log, bucket: Bucket, archivers: Archivers, object_store: ObjectStore
) -> None:
    draw = random.Random(20)
    store = store_of(bucket)
    for _ in range(3):
        process = archivers.start()
        wanted = len(store.files()) + draw.randrange(1, 5)

        def fed(wanted: int = wanted) -> bool | None:
            # Records keep coming, so that the kill falls between reading, writing and sending.
            log.send(draw.randrange(1, 40), commit=draw.random() < 0.8)
            return len(store.files()) >= wanted or None

        wait_for("objects written", fed)
        process.end(signal.SIGKILL)
    process = archivers.start()
    wait_for("all archived", lambda: complete(log, bucket))
    object_store.stop()
    log.send(100)
    wait_for("outage told", lambda: "history is not written" in archivers.told() or None)
    object_store.start()
    log.send(100)
    wait_for("archived after the outage", lambda: complete(log, bucket))
    process.end(signal.SIGTERM)
    assert archived(bucket) == sorted(log.sent)
    files = store.files()
    assert len(cover(files)) == len(files), "nothing was written twice"
    assert not any(secret in archivers.told() for secret in (ACCESS_KEY, SECRET_KEY))
