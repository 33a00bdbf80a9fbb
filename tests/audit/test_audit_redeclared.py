"""Windows that are taken out and declared again, or otherwise, leave a ledger that balances."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import confluent_kafka as ck
import pytest

from agents.audit.auditor import TOPICS, Auditor
from agents.audit.facts import audited
from agents.audit.reader import AuditTarget, Reader
from agents.audit.report import Report
from agents.topics import LOG_EVENTS, WINDOW_CHANGELOG
from tables.sessions.config import load_sessions
from tables.windows.spec import load_windows
from tables.windows.stats import WindowAggregate
from tests.system.harness import (
    CHECKOUT,
    Cluster,
    Feeder,
    Worker,
    committed_windows,
    events,
    read_topic,
    total,
    wait_for,
)

pytestmark = pytest.mark.broker

START_MS = 1_790_000_000_000
BATCH, LOST = 400, 5
HITS = """
  - {name: hits, topic: log-events, kind: tumbling, size: 1h, grace: 1h, key: endpoint}
"""
VISITS = """
  - {name: visits, topic: log-events, kind: hopping, size: 2h, advance: 1h, grace: 1h, key: KEY}
"""


class Run:
    """A worker after the other, each with a configuration of its own; all events in one pane."""

    def __init__(self, cluster: Cluster, workers: list[Worker], tmp_path: Path) -> None:
        self.cluster = cluster
        self.config = tmp_path / "config"
        self.readers: list[Reader] = []
        self._workers = workers
        self._seeds = count(1)
        self._sent = 0
        shutil.copytree(CHECKOUT / "config", self.config)

    def declare(self, *windows: str) -> None:
        plain = (CHECKOUT / "config" / "windows.yaml").read_text()
        (self.config / "windows.yaml").write_text(plain + "".join(windows))

    def begin(self) -> None:
        """Start a worker."""
        self._workers.append(self.cluster.worker(HEADRACE_CONFIG=str(self.config)).ready())

    def end(self) -> Worker:
        worker = self._workers.pop()
        assert worker.stop() == 0, worker.tail()
        return worker

    def feed(self) -> None:
        """Send events and wait until the worker has counted them."""
        self._sent += BATCH
        feeder = Feeder(self.cluster)
        feeder.send(events(next(self._seeds), BATCH, keys=20, start_ms=START_MS, rate=1_000))
        feeder.flush()

        def counted() -> bool | None:
            return total(committed_windows(self.cluster)) == self._sent or None

        wait_for(f"{self._sent} events counted", counted)

    def auditor(self) -> Auditor:
        """An auditor of what is declared now, who has read nothing yet."""
        partitions = dict.fromkeys(TOPICS, self.cluster.partitions)
        topic = self.cluster.topic
        target = AuditTarget(self.cluster.bootstrap, topic("headrace"), topic, partitions, 1 << 21)
        windows = load_windows(self.config / "windows.yaml")
        sessions = load_sessions(self.config / "sessions.yaml")
        self.readers.append(Reader(target, 1.0, lambda: False))
        return Auditor(self.readers[-1], audited(windows, sessions), lambda: START_MS)

    def audit(self, auditor: Auditor | None = None) -> Report:
        """What an auditor finds (one who begins now), once nothing is under way."""
        auditor = auditor or self.auditor()

        def probe() -> Report | None:
            report = auditor.round()
            quiet = not any(line.in_flight for line in report.lines)
            settled = quiet and report.verdict != "in flight"
            return report if report.mismatches or settled else None

        return wait_for("a settled ledger", probe)

    def counted(self, name: str) -> int:
        """Events in the rows of a window, as the changelog has them for whoever restores."""
        windows = load_windows(self.config / "windows.yaml")
        identity = next(each.identity for each in windows if each.name == name).encode()
        rows: dict[bytes, int] = {}
        for record in read_topic(self.cluster, WINDOW_CHANGELOG):
            key = record.key() or b""
            of = bytes([record.partition() or 0])
            if key == b"\0since\0" + identity:
                rows = {row: n for row, n in rows.items() if row[:1] != of}
            if key.startswith(identity + b"\0"):
                rows[of + key] = WindowAggregate().decode(record.value() or b"").count
        return sum(rows.values())

    def lose(self) -> int:
        """Send events to one partition and commit behind them, as if they had been counted."""
        feeder = Feeder(self.cluster)
        feeder.send(events(99, 1, keys=1, start_ms=START_MS, rate=1_000))
        feeder.flush()
        (record,) = [
            m
            for m in read_topic(self.cluster, LOG_EVENTS)
            if b"00000063-0000" in (m.value() or b"")
        ]
        for _ in range(LOST - 1):
            feeder.raw(record.key(), record.value(), LOG_EVENTS)
        feeder.flush()
        partition, first = record.partition() or 0, record.offset() or 0
        group = ck.Consumer(
            {
                "bootstrap.servers": self.cluster.bootstrap,
                "group.id": self.cluster.topic("headrace"),
                "enable.auto.commit": False,
            }
        )
        at = ck.TopicPartition(self.cluster.topic(LOG_EVENTS), partition)
        (told,) = group.committed([at], 30)
        assert told.offset <= first
        at = ck.TopicPartition(at.topic, partition, first + LOST, told.metadata)

        def left() -> bool | None:
            try:
                group.commit(offsets=[at], asynchronous=False)
            except ck.KafkaException:  # the group still knows the worker
                return None
            return True

        wait_for("the group empty", left)
        group.close()
        return partition

    def printed(self) -> subprocess.CompletedProcess[str]:
        """``faust -A app audit``."""
        return subprocess.run(
            [sys.executable, "-m", "faust", "-A", "app", "audit"],
            cwd=CHECKOUT,
            env=self.cluster.environment(1, {"HEADRACE_CONFIG": str(self.config)}),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )


@pytest.fixture
def run(cluster: Cluster, workers: list[Worker], tmp_path: Path) -> Iterator[Run]:
    made = Run(cluster, workers, tmp_path)
    yield made
    for reader in made.readers:
        reader.close()


def test_a_window_declared_again_or_otherwise_balances_from_there_on_and_a_loss_is_found(
    run: Run, tmp_path: Path
) -> None:
    by_endpoint, by_service = (VISITS.replace("KEY", key) for key in ("endpoint", "service"))
    run.declare(HITS, by_endpoint)
    run.begin()
    run.feed()
    report = run.audit()
    assert (report.verdict, report.notes) == ("balanced", ()), report
    run.end()

    run.declare(by_endpoint)  # hits are not counted
    run.begin()
    run.feed()
    assert run.audit().verdict == "balanced"
    run.declare(HITS, by_service)  # as of the next worker, and for whoever audits
    witness = run.auditor()
    report = witness.round()
    assert (report.verdict, report.mismatches) == ("in flight", ()), report
    assert "is not counted yet" in report.notes[0]
    run.end()

    run.begin()
    run.feed()
    report = run.audit()
    assert report.verdict == "balanced", report
    again = run.audit(witness)
    assert (again.verdict, again.lines[2]) == ("balanced", report.lines[2])
    noted = [note.split()[1] for note in report.notes]
    assert noted == ["hits", "visits"], report.notes
    assert (run.counted("hits"), run.counted("visits")) == (BATCH, BATCH)
    printed = run.printed()
    assert (printed.returncode, "mismatch" in printed.stdout) == (0, False), printed.stdout
    worker = run.end()
    said = worker.log.read_text()
    assert f"{LOG_EVENTS}/0: declared anew, or otherwise than before: hits, visits;" in said

    partition = run.lose()
    # Whoever has nothing but the changelog finds in it what was counted before as well.
    run.cluster = replace(run.cluster, home=tmp_path / "elsewhere")
    run.begin()
    run.feed()
    assert (run.counted("hits"), run.counted("visits")) == (2 * BATCH, 2 * BATCH)
    for auditor in (witness, run.auditor()):
        wrong = run.audit(auditor).mismatches
        found = {(f.check.topic, f.check.partition, f.difference) for f in wrong}
        assert found == {(LOG_EVENTS, partition, -LOST)}
        assert {"in", "window hits", "window visits"} < {f.check.account for f in wrong}
    printed = run.printed()
    assert printed.returncode == 1
    assert f"mismatch: {LOG_EVENTS}/{partition}: window hits: expected" in printed.stdout
