"""The archiver on a real broker: killed, stopped, overtaken, without a disk; each record once."""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from agents.history import archiver
from agents.history.archiver import Archiver
from agents.history.source import log_start
from agents.history.target import ArchiverMetrics, ArchiveTarget
from app.engine.clock import SystemClock
from tables.history.folder import DatasetFolder, dataset_folder
from tables.history.ranges import cover
from tests.history.archiving import PARTITIONS, Log, Process, archived, complete, target
from tests.system.harness import wait_for

pytestmark = pytest.mark.broker


@pytest.fixture
def log(kafka: str, namespace: str) -> Log:
    return Log(kafka, f"{namespace}.windows-final")


def where(history: Path) -> DatasetFolder:
    return dataset_folder(history, "", "windows")


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history"


def test_each_final_is_archived_exactly_once_through_kills_at_any_point(
    log: Log, history: Path, processes: list[Process]
) -> None:
    draw = random.Random(11)
    for _ in range(4):
        processes.append(Process(log, history, history.parent))
        seen = len(where(history).files())
        wanted = seen + draw.randrange(1, 6)

        def fed(wanted: int = wanted) -> bool | None:
            # Records keep coming, so that the kill falls between reading, writing and naming.
            log.send(draw.randrange(1, 40), commit=draw.random() < 0.8)
            return len(where(history).files()) >= wanted or None

        wait_for("files written", fed)
        processes[-1].end(signal.SIGKILL)
    processes.append(Process(log, history, history.parent))
    wait_for("all archived", lambda: complete(log, history))
    processes[-1].end(signal.SIGTERM)
    assert archived(history) == sorted(log.sent)
    files = where(history).files()
    assert len(cover(files)) == len(files), "killed archivers wrote nothing twice"
    assert {each.partitions for each in files} == {PARTITIONS}


def test_a_zombie_archiver_doubles_nothing(
    log: Log, history: Path, processes: list[Process]
) -> None:
    processes.append(Process(log, history, history.parent, "zombie"))
    log.send(50)
    wait_for("first records archived", lambda: complete(log, history))
    log.send(300)
    processes[0].signal(signal.SIGSTOP)
    processes.append(Process(log, history, history.parent, "owner"))
    wait_for("the owner took over", lambda: complete(log, history))
    processes[0].signal(signal.SIGCONT)
    log.send(300)
    wait_for("all archived", lambda: complete(log, history))
    for each in processes:
        each.end(signal.SIGTERM)
    assert archived(history) == sorted(log.sent)


@pytest.fixture
def archivers() -> Iterator[list[Archiver]]:
    started: list[Archiver] = []
    yield started
    for each in started:
        each.stop(20.0)


def started(archivers: list[Archiver], aim: ArchiveTarget) -> ArchiverMetrics:
    metrics = ArchiverMetrics(CollectorRegistry())
    archivers.append(Archiver(aim, SystemClock(), metrics))
    archivers[-1].start()
    return metrics


def test_records_wait_in_kafka_while_files_cannot_be_written(
    log: Log, history: Path, archivers: list[Archiver], caplog: pytest.LogCaptureFixture
) -> None:
    history.mkdir()
    (history / "default").write_text("in the way of the folder")
    log.send(20)
    with caplog.at_level(logging.WARNING):
        started(archivers, target(log, history))
        wait_for("failure told", lambda: "history is not written" in caplog.text or None)
    alert = wait_for("a warning", lambda: archivers[-1].alert() or None)
    assert f"the history is not written to {history} (for " in alert
    assert "File exists" in alert
    assert "make the folder writable" in alert
    (history / "default").unlink()
    log.send(20)
    wait_for("all archived", lambda: complete(log, history))
    wait_for("no warning", lambda: not archivers[-1].alert() or None)
    assert archived(history) == sorted(log.sent)


def test_a_partition_that_the_broker_does_not_know_yet_is_looked_at_again(
    log: Log, history: Path, archivers: list[Archiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ck.TopicPartition] = []

    def at_first_unknown(consumer: ck.Consumer, of: ck.TopicPartition) -> int:
        asked.append(of)
        if len(asked) == 1:
            return log_start(consumer, ck.TopicPartition(of.topic, PARTITIONS))
        return log_start(consumer, of)

    monkeypatch.setattr(archiver, "log_start", at_first_unknown)
    log.send(20)
    metrics = started(archivers, target(log, history))
    wait_for("all archived", lambda: complete(log, history))
    archivers[-1].stop(20.0)
    assert archived(history) == sorted(log.sent)
    assert metrics.failures._value.get() == 1


def test_what_was_set_aside_or_removed_is_written_again_from_the_log(
    log: Log, history: Path, archivers: list[Archiver]
) -> None:
    for _ in range(3):
        log.send(20)
        started(archivers, target(log, history))
        wait_for("archived", lambda: complete(log, history))
        archivers[-1].stop(20.0)
    ordered = sorted(where(history).files(), key=lambda file: (file.source, file.first))
    bad, gone, *_ = [file for file in ordered if file.source == ordered[0].source]
    assert ordered[2].source == ordered[0].source, "a gap has files before and after it"
    where(history).file(bad).write_bytes(b"PAR1 torn")
    where(history).file(gone).unlink()
    log.send(20)
    metrics = started(archivers, target(log, history))
    wait_for("set aside", lambda: where(history).aside() or None)
    wait_for("archived again", lambda: complete(log, history))
    archivers[-1].stop(20.0)
    assert archived(history) == sorted(log.sent)
    assert where(history).aside() == [bad]
    assert metrics.failures._value.get() == 0


def test_a_topic_made_anew_is_archived_beside_the_old_one(
    log: Log, history: Path, archivers: list[Archiver]
) -> None:
    log.send(20)
    started(archivers, target(log, history))
    wait_for("archived", lambda: complete(log, history))
    archivers[-1].stop(20.0)
    before = archived(history)
    admin = AdminClient({"bootstrap.servers": log.bootstrap})
    admin.delete_topics([log.name])[log.name].result(60)

    def remade() -> Log | None:
        try:
            return Log(log.bootstrap, log.name)
        except ck.KafkaException:
            return None

    anew = wait_for("topic made anew", remade)
    anew.send(20)
    started(archivers, target(anew, history))
    wait_for("archived", lambda: len(archived(history)) == 40 or None)
    archivers[-1].stop(20.0)
    assert archived(history) == sorted(before + anew.sent)
    assert len({file.source.topic_id for file in where(history).files()}) == 2
