"""Entities on a real broker, in a real worker: restored, compacted, rebuilt."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from app.engine.partitioner import partition_for
from tests.entities.driving import body
from tests.system.harness import Cluster, Worker, read_topic, wait_for
from tests.system.topics import make_topics
from web.entities.statetopic import StateTopic

pytestmark = pytest.mark.broker

TOKEN = "a-token-of-the-tests"  # noqa: S105 - not a secret
PATH = "/api/v1/entities"


@dataclass
class Running:
    """A worker that tests may restart, on a namespace of its own."""

    cluster: Cluster
    worker: Worker

    def call(self, method: str, path: str, sent: Any = None) -> tuple[int, Any]:
        """Status and JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.worker.port}{path}",
            None if sent is None else json.dumps(sent).encode(),
            {"Authorization": f"Bearer {TOKEN}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as exc:
            return exc.code, json.load(exc)

    def post(self, entity_id: str, *events: dict[str, Any]) -> None:
        """Accepted changes of a device."""
        for event in events:
            status, answer = self.call("POST", f"{PATH}/device/{entity_id}", event)
            assert status == 202, answer

    def version(self, entity_id: str, version: int) -> Any:
        """The answer once the device is known at that version."""

        def probe() -> Any | None:
            status, answer = self.call("GET", f"{PATH}/device/{entity_id}")
            return answer if status in (200, 410) and answer["version"] == version else None

        return wait_for(f"{entity_id} at version {version}", probe)

    def fill(self, version: int) -> None:
        """Entities of every partition at that version; the next test sees none of it come."""
        for filler in range(8):
            self.post(f"filler-{filler}", body("update", version))
        for filler in range(8):
            self.version(f"filler-{filler}", version)

    def rebuilt(self) -> Any:
        """The report of a rebuild that has ended."""
        status, report = self.call("POST", f"{PATH}/rebuild")
        assert status == 202, report

        def probe() -> Any | None:
            _, found = self.call("GET", f"{PATH}/rebuild/{report['id']}")
            return found if found["state"] != "running" else None

        return wait_for("the rebuild", probe)

    def restart(self, *, wipe: bool) -> None:
        """Kill the worker and start it again, on its disk or without it."""
        self.worker.kill()
        if wipe:
            shutil.rmtree(self.cluster.home)
        self.worker = started(self.cluster, self.worker.port)


def started(cluster: Cluster, port: int | None = None) -> Worker:
    return cluster.worker(port, HEADRACE_ADMIN_TOKEN=TOKEN).ready()


@pytest.fixture(scope="module")
def running(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("entities") / "home"
    cluster = Cluster(kafka, f"t-{uuid.uuid4().hex[:12]}", home)
    running = Running(cluster, started(cluster))
    yield running
    running.worker.stop()


@pytest.fixture
def device() -> str:
    """An id that no other test uses."""
    return f"d-{uuid.uuid4().hex[:8]}"


def test_a43_1_registered_and_updated_over_http_the_last_state_and_four_changes_answer(
    running: Running, device: str
) -> None:
    running.post(device, body("register", 1), *(body("update", v) for v in (2, 3, 4)))
    answer = running.version(device, 4)
    assert answer["attributes"] == {"firmware": "v4"}
    status, history = running.call("GET", f"{PATH}/device/{device}/history")
    assert status == 200
    assert [each["version"] for each in history["events"]] == [4, 3, 2, 1]
    records = [m for m in read_topic(running.cluster, "entity-events") if device in str(m.key())]
    assert [m.offset() for m in records] == [each["offset"] for each in history["events"][::-1]]
    assert {m.partition() for m in records} == {answer["partition"]}
    key = f"device:{device}".encode()
    assert answer["partition"] == partition_for(key, running.cluster.partitions)


def test_a43_4_an_older_version_is_ignored_and_counted_in_a_ledger_that_balances(
    running: Running, device: str
) -> None:
    def counted() -> dict[str, int]:
        _, ledger = running.call("GET", "/api/v1/ledger")
        (total,) = [each for each in ledger["totals"] if each["topic"] == "entity-events"]
        assert total["balanced"]
        assert total["in"] == sum(total[n] for n in ("applied", "late", "duplicate", "rejected"))
        return total

    before = counted()
    running.post(device, body("register", 1), body("update", 3), body("update", 2))
    wait_for("all three", lambda: counted()["in"] == before["in"] + 3 or None)
    after = counted()
    assert after["applied"] - before["applied"] == 2
    assert after["duplicate"] - before["duplicate"] == 1
    assert running.version(device, 3)["attributes"] == {"firmware": "v3"}


def test_a43_2_and_a43_3_without_its_disk_a_restarted_worker_has_the_identical_snapshot(
    running: Running, device: str
) -> None:
    for number in range(20):
        running.post(f"{device}-{number}", body("register", 1), body("update", 2))
    running.post(device, body("register", 1), body("deregister", 2))
    running.version(device, 2)
    for number in range(20):
        running.version(f"{device}-{number}", 2)
    before = running.rebuilt()
    assert before["state"] == "equal", before
    assert before["entities"] >= 20
    histories = [running.call("GET", f"{PATH}/device/{device}{tail}") for tail in ("/history", "")]
    listed = running.call("GET", f"{PATH}/device?limit=1000")[1]["entities"]

    running.restart(wipe=True)

    after = running.rebuilt()
    assert after["state"] == "equal", after
    assert after["tables_hash"] == after["topic_hash"] == before["tables_hash"]
    assert after["entities"] == before["entities"]
    for (status, answer), tail in zip(histories, ("/history", ""), strict=True):
        found = running.call("GET", f"{PATH}/device/{device}{tail}")
        assert found == (status, answer | {"staleness_ms": found[1]["staleness_ms"]})
    assert histories[1][0] == 410
    assert running.call("GET", f"{PATH}/device?limit=1000")[1]["entities"] == listed
    running.post(device, body("update", 1, 99))
    running.post(f"{device}-0", body("update", 3))
    running.version(f"{device}-0", 3)
    assert running.version(device, 2)["status"] == 410


def test_a_rebuild_restores_every_table_from_offset_0_while_changes_come(
    running: Running, device: str
) -> None:
    for number in range(20):
        running.post(f"{device}-{number}", body("register", 1))
    for number in range(20):
        running.version(f"{device}-{number}", 1)
    state = next(running.cluster.home.glob("**/state/entity-events"))
    for aside in state.glob("*.aside"):
        shutil.rmtree(aside)
    over = threading.Event()
    sent = 1

    def change() -> None:
        nonlocal sent
        while not over.is_set() or sent < 5:
            sent += 1
            running.post(f"{device}-0", body("update", sent))

    with ThreadPoolExecutor(1) as threads:
        changes = threads.submit(change)
        try:
            report = running.rebuilt()
        finally:
            over.set()
        changes.result(120)
    partitions = running.cluster.partitions
    assert (report["state"], report["rebuilt"]) == ("equal", partitions), report
    assert len([*state.glob("*.aside")]) == partitions
    running.version(f"{device}-0", sent)
    _, history = running.call("GET", f"{PATH}/device/{device}-0/history?limit=1000")
    assert [each["version"] for each in history["events"]] == [*range(sent, 0, -1)][:100]
    for number in range(1, 20):
        running.version(f"{device}-{number}", 1)
    _, ledger = running.call("GET", "/api/v1/ledger")
    assert all(row["balanced"] for row in ledger["rows"])


@pytest.fixture
def eager_cleaner(running: Running) -> Iterator[None]:
    """The broker compacts at once what is dirty in entity-state, and closes its segments."""
    admin = AdminClient({"bootstrap.servers": running.cluster.bootstrap})

    def alter(kind: ResourceType, name: str, settings: dict[str, str], set_: bool) -> None:
        operation = AlterConfigOpType.SET if set_ else AlterConfigOpType.DELETE
        entries = [
            ConfigEntry(key, value, incremental_operation=operation)
            for key, value in settings.items()
        ]
        resource = ConfigResource(kind, name, incremental_configs=entries)
        admin.incremental_alter_configs([resource])[resource].result()

    topic = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    cleaner = {"log.cleaner.backoff.ms": "100"}
    brokers = [str(number) for number in admin.list_topics(timeout=60).brokers]
    alter(ResourceType.TOPIC, running.cluster.topic("entity-state"), topic, set_=True)
    for broker in brokers:
        alter(ResourceType.BROKER, broker, cleaner, set_=True)
    yield
    for broker in brokers:
        alter(ResourceType.BROKER, broker, cleaner, set_=False)


@pytest.mark.usefixtures("eager_cleaner")
def test_a43_5_after_a_forced_compaction_a_reader_from_0_finds_each_live_key_and_its_last_state(
    running: Running, device: str
) -> None:
    ids = [f"{device}-{number}" for number in range(5)]
    for version in range(1, 6):
        for entity_id in ids:
            running.post(entity_id, body("update", version))
        for entity_id in ids:
            running.version(entity_id, version)
    gone = f"{device}-gone"
    running.post(gone, body("register", 1), body("deregister", 2))
    running.version(gone, 2)

    def read() -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for message in read_topic(running.cluster, "entity-state"):
            value = message.value()
            key = message.key().decode().removeprefix("device:")
            if key.startswith(device):
                found.setdefault(key, []).append(None if value is None else json.loads(value))
        return found

    # Each version was committed before the next came, so each has had a record of its own.
    written = 5 * len(ids)
    number = 0

    def compacted() -> dict[str, list[Any]] | None:
        # A segment is closed by the first record after its time: each partition needs some.
        nonlocal number
        number += 1
        running.fill(number)
        found = read()
        return found if sum(len(found.get(each, [])) for each in ids) < written else None

    found = wait_for("the compaction", compacted)
    for entity_id in ids:
        assert found[entity_id], "no record of a live key"
        versions = [value["version"] for value in found[entity_id]]
        assert versions == sorted(versions)
        answer = running.version(entity_id, 5)
        assert found[entity_id][-1] == {
            name: answer[name] for name in ("state", "version", "updated_at", "attributes")
        }
    assert found.get(gone, [None])[-1] is None
    report = running.rebuilt()
    assert (report["state"], report["different"]) == ("equal", 0), report


def test_a_reader_comes_to_an_end_while_transactions_keep_coming(kafka: str) -> None:
    name = f"t-{uuid.uuid4().hex[:12]}"
    make_topics(kafka, NewTopic(name, 1, 1))
    topic = StateTopic(kafka, lambda _: name)
    done = threading.Event()

    def feed(feeder: int) -> None:
        # Several, so that there is always a record to fetch before a fetch gives up.
        producer = ck.Producer(
            {"bootstrap.servers": kafka, "transactional.id": f"{name}-{feeder}", "linger.ms": 0}
        )
        producer.init_transactions(60)
        while not done.is_set():
            producer.begin_transaction()
            producer.produce(name, b"{}", b"%d" % feeder)
            producer.commit_transaction(60)

    with ThreadPoolExecutor(5) as threads:
        feeders = [threads.submit(feed, number) for number in range(4)]
        try:
            wait_for("some records", lambda: topic.end(0) >= 20 or None)
            assert threads.submit(topic.read, 0).result(60).records >= 10
        finally:
            topic.stop()
            done.set()
            for each in feeders:
                each.result(60)
    topic.close()


def test_the_end_of_the_state_topic_is_that_of_its_committed_records(
    running: Running, device: str
) -> None:
    running.post(device, body("register", 1))
    partition = running.version(device, 1)["partition"]
    topic = StateTopic(running.cluster.bootstrap, running.cluster.topic)
    end = topic.end(partition)
    latest = topic.read(partition)
    assert latest.keys[f"device:{device}".encode()][1] < end
    producer = ck.Producer(
        {"bootstrap.servers": running.cluster.bootstrap, "transactional.id": device}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(running.cluster.topic("entity-state"), b"{}", b"open", partition=partition)
    assert producer.flush(60) == 0
    assert topic.end(partition) == end
    assert topic.read(partition).keys == latest.keys
    producer.abort_transaction(60)
    topic.close()
