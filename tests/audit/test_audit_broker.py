"""The auditor on a real worker's topics: right ones balance, a forged record is named."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, islice

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry

from agents.audit.auditor import TOPICS, Auditor
from agents.audit.facts import audited
from agents.audit.reader import AuditTarget, Reader
from agents.audit.report import Report
from agents.audit.rounds import AuditRounds
from agents.topics import (
    APPLICATION_LOGS,
    DEAD_LETTERS,
    ENTITY_EVENTS,
    INFRASTRUCTURE_METRICS,
    LATE_EVENTS,
    LOG_EVENTS,
    WINDOW_PARTIALS,
    WINDOWS_FINAL,
)
from tables.sessions.config import load_sessions
from tables.windows.spec import load_windows
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
HOUR_MS, MINUTE_MS = 3_600_000, 60_000
COUNT = 3_000
LATE = 40
NOW = START_MS + HOUR_MS
CLOSING = 200
"""Later events, for every partition: they close the windows of the others."""
ENTITIES = 5


def target(cluster: Cluster) -> AuditTarget:
    partitions = dict.fromkeys(TOPICS, cluster.partitions)
    return AuditTarget(
        cluster.bootstrap, cluster.topic("headrace"), cluster.topic, partitions, 1 << 21
    )


@contextlib.contextmanager
def auditor(cluster: Cluster) -> Iterator[Auditor]:
    reader = Reader(target(cluster), 1.0, lambda: False)
    try:
        yield Auditor(reader, CONFIGURED, lambda: NOW)
    finally:
        reader.close()


CONFIG = CHECKOUT / "config"
CONFIGURED = audited(load_windows(CONFIG / "windows.yaml"), load_sessions(CONFIG / "sessions.yaml"))


def load(cluster: Cluster) -> None:
    """Valid events by both ways, late ones, garbage everywhere, and wait until all is counted."""
    feeder = Feeder(cluster)
    made = events(1, COUNT, keys=20, start_ms=START_MS, rate=1_000)
    feeder.send(islice(made, COUNT // 2), topic=APPLICATION_LOGS)
    feeder.send(made)
    feeder.flush()
    wait_for("valid events counted", lambda: total(committed_windows(cluster)) == COUNT or None)
    feeder.send(events(4, CLOSING, keys=20, start_ms=START_MS + 5 * MINUTE_MS, rate=1_000))
    feeder.flush()
    wait_for("windows closed", lambda: read_topic(cluster, WINDOWS_FINAL) or None)
    feeder.send(events(2, LATE, keys=5, start_ms=START_MS - HOUR_MS, rate=1_000))
    for topic in (APPLICATION_LOGS, INFRASTRUCTURE_METRICS, LOG_EVENTS):
        for value in (b"garbage", b'{"source": 7}', b"[]", None):
            feeder.raw(b"k", value, topic)
    feeder.raw(b"k", b'{"source": "host", "message": "without an id"}', INFRASTRUCTURE_METRICS)
    for number in range(ENTITIES):
        registered = b'{"op": "register", "version": 1, "attributes": {}}'
        feeder.raw(b"device:%d" % number, registered, ENTITY_EVENTS)
    feeder.raw(b"device:0", registered, ENTITY_EVENTS)  # again: a duplicate
    feeder.raw(b"device:0", b"garbage", ENTITY_EVENTS)
    feeder.flush()
    wait_for("late ones told", lambda: len(read_topic(cluster, LATE_EVENTS)) == LATE or None)
    wait_for("garbage kept", lambda: len(read_topic(cluster, DEAD_LETTERS)) == 13 or None)


def settled(auditor: Auditor) -> Report:
    """The report once nothing is under way."""

    def probe() -> Report | None:
        report = auditor.round()
        quiet = not any(line.in_flight for line in report.lines)
        done = quiet and report.verdict != "in flight" and report.lines[2].records > COUNT
        return report if done or report.mismatches else None

    return wait_for("a settled ledger", probe)


def found_wrong(auditor: Auditor) -> set[tuple[str, int, str]]:
    """Topic, partition and account of each mismatch of a round."""
    wrong = auditor.round().mismatches
    return {(f.check.topic, f.check.partition, f.check.account) for f in wrong}


def faust_audit(cluster: Cluster) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faust", "-A", "app", "audit"],
        cwd=CHECKOUT,
        env=cluster.environment(1, {}),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


async def test_a_real_ledger_balances_and_a_forged_dead_letter_is_named(
    cluster: Cluster, workers: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    workers.append(cluster.worker().ready())
    load(cluster)
    with auditor(cluster) as first:
        report = settled(first)
        assert report.verdict == "balanced", report
        lines = {line.topic: line for line in report.lines}
        counts = {
            topic: (line.records, line.applied, line.late, line.rejected)
            for topic, line in lines.items()
        }
        assert counts[APPLICATION_LOGS] == (COUNT // 2 + 4, COUNT // 2, 0, 4)
        assert counts[INFRASTRUCTURE_METRICS] == (5, 1, 0, 4)
        assert counts[LOG_EVENTS] == (
            COUNT + CLOSING + LATE + 5,
            COUNT + CLOSING + 1,
            LATE,
            4,
        )
        entities = lines[ENTITY_EVENTS]
        assert (entities.records, entities.applied) == (ENTITIES + 2, ENTITIES)
        assert (entities.duplicate, entities.rejected) == (1, 1)
        assert report.notes == ()
        assert report.records_read > COUNT
        again = first.round()
        assert (again.verdict, again.lines[2]) == ("balanced", lines[LOG_EVENTS])
        assert again.records_read < 100
        printed = faust_audit(cluster)
        assert printed.returncode == 0, printed.stdout + printed.stderr
        assert "balanced" in printed.stdout

        partition = forge_dead_letter(cluster)
        again = sent_again(cluster, WINDOWS_FINAL)
        event = sent_again(cluster, LOG_EVENTS, made_of=APPLICATION_LOGS)
        wanted = {
            (LOG_EVENTS, partition, "rejected"),
            (WINDOWS_FINAL, again, "written twice"),
            (APPLICATION_LOGS, event, "made"),
            (APPLICATION_LOGS, event, "offsets named twice"),
        }
        wait_for("all three named", lambda: found_wrong(first) >= wanted or None)
    printed = faust_audit(cluster)
    assert printed.returncode == 1
    assert f"mismatch: {LOG_EVENTS}/{partition}: rejected" in printed.stdout
    await alerts(cluster, partition, caplog)


async def alerts(cluster: Cluster, partition: int, caplog: pytest.LogCaptureFixture) -> None:
    """The worker's rounds set the gauge, log once, and tell the endpoint."""
    registry = CollectorRegistry()
    ticks = count(NOW)
    rounds = AuditRounds(target(cluster), CONFIGURED, lambda: next(ticks), registry, period_s=0.0)
    assert rounds.last() is None
    with caplog.at_level(logging.ERROR, "agents.audit.rounds"):
        running = asyncio.create_task(rounds.run())
        document = await asyncio.to_thread(wait_for, "a round", rounds.last)

        def later() -> bool | None:
            return (rounds.last() or document)["at"] != document["at"] or None

        await asyncio.to_thread(wait_for, "another round", later)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert (registry.get_sample_value("ledger_mismatch", {"topic": LOG_EVENTS}) or 0) >= 2
    assert registry.get_sample_value("ledger_mismatch", {"topic": WINDOW_PARTIALS}) == 1
    assert registry.get_sample_value("ledger_mismatch", {"topic": ENTITY_EVENTS}) == 0
    (told,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert f"{LOG_EVENTS}/{partition}: rejected" in told.getMessage()
    assert "difference +1" in told.getMessage()
    assert document["verdict"] == "mismatch"


def forge_dead_letter(cluster: Cluster) -> int:
    """Call an applied record of log-events rejected; its partition."""
    applied = next(
        m for m in read_topic(cluster, LOG_EVENTS) if (m.value() or b"").startswith(b'{"event_id"')
    )
    partition, offset = applied.partition() or 0, applied.offset() or 0
    feeder = Feeder(cluster)
    feeder.raw(
        applied.key(),
        applied.value(),
        DEAD_LETTERS,
        [
            ("original_topic", LOG_EVENTS.encode()),
            ("original_partition", b"%d" % partition),
            ("original_offset", b"%d" % offset),
        ],
    )
    feeder.flush()
    return partition


def sent_again(cluster: Cluster, topic: str, made_of: str = "") -> int:
    """Send a record of a topic a second time, headers and all.

    Its partition, or that of the record of ``made_of`` which it was made of.
    """

    def of(record: ck.Message) -> bytes:
        return dict(record.headers() or []).get("origin") or b""

    record = next(m for m in read_topic(cluster, topic) if of(m).startswith(made_of.encode()))
    feeder = Feeder(cluster)
    feeder.raw(record.key(), record.value(), topic, record.headers())
    feeder.flush()
    if not made_of:
        return record.partition() or 0
    return int(of(record).rpartition(b":")[0].rpartition(b"/")[2])


def test_late_records_cut_away_by_hand_are_missed_by_whoever_counts_anew(
    cluster: Cluster, workers: list[Worker]
) -> None:
    workers.append(cluster.worker().ready())
    load(cluster)
    with auditor(cluster) as witness:
        assert settled(witness).verdict == "balanced"
        late = {m.partition() for m in read_topic(cluster, LATE_EVENTS)}
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        everything = [
            ck.TopicPartition(cluster.topic(LATE_EVENTS), p or 0, ck.OFFSET_END) for p in late
        ]
        for future in admin.delete_records(everything).values():
            future.result()
        assert settled(witness).verdict == "balanced"
    with auditor(cluster) as newcomer:
        wrong = settled(newcomer).mismatches
        assert {f.check.topic for f in wrong} == {LOG_EVENTS}
        assert sum(f.difference for f in wrong if f.check.account == "late") == -LATE


def test_no_false_alarm_while_a_loaded_worker_is_killed_and_replaced(
    cluster: Cluster, workers: list[Worker]
) -> None:
    workers.append(cluster.worker().ready())
    feeder = Feeder(cluster)
    stream = events(3, 40_000, keys=30, start_ms=START_MS, rate=1_500)
    reports: list[Report] = []
    with auditor(cluster) as watching:
        for turn in range(8):
            for event in islice(stream, 2_500):
                topic = APPLICATION_LOGS if event["event_id"][-1] in "02468ace" else LOG_EVENTS
                feeder.send((event,), topic=topic)
            feeder.raw(b"k", b"garbage", APPLICATION_LOGS)
            feeder.flush()
            if turn == 3:
                workers[0].kill()
                workers.append(cluster.worker())
            reports.append(watching.round())
            assert not reports[-1].mismatches, reports[-1]
        workers[1].ready()

        def complete() -> Report | None:
            report = watching.round()
            assert not report.mismatches, report
            return report if report.lines[2].records == 20_000 else None

        wait_for("everything counted", complete)
        final = settled(watching)
    assert final.verdict == "balanced", final
    assert final.lines[2].applied + final.lines[2].late == 20_000
