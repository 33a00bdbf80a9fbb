"""The auditor on a real worker's topics: right ones balance, a forged record is named."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import urllib.request
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
from web.peers import FORWARDED
from web.queries.ledger import PATH as LEDGER

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


class Turn:
    """The rounds of one worker, whose turn it is when the test says so."""

    def __init__(self, cluster: Cluster, mine: bool) -> None:
        self.mine: bool | None = mine
        self.asked = 0
        self.reports: list[dict[str, object]] = []
        self.registry = CollectorRegistry()
        ticks = count(NOW)
        self.rounds = AuditRounds(
            target(cluster), CONFIGURED, lambda: next(ticks), self.registry, self.ask, 0.01
        )

    def ask(self) -> bool | None:
        """Asked between any two rounds: so no report is missed."""
        self.asked += 1
        last = self.rounds.last()
        if last is not None and last["at"] not in [each["at"] for each in self.reports[-1:]]:
            self.reports.append(last)
        return self.mine

    def mismatch(self, topic: str) -> float | None:
        return self.registry.get_sample_value("ledger_mismatch", {"topic": topic})

    async def reported(self) -> dict[str, object]:
        """The next report."""
        seen = len(self.reports)
        await asyncio.to_thread(wait_for, "a round", lambda: self.reports[seen:] or None)
        return self.reports[seen]

    async def turned(self) -> None:
        """Wait until it has been seen whose turn it is, and what follows is done."""
        seen = self.asked

        def probe() -> bool | None:
            return self.asked > seen + 1 or None

        await asyncio.to_thread(wait_for, "the turn seen", probe)


async def alerts(cluster: Cluster, partition: int, caplog: pytest.LogCaptureFixture) -> None:
    """The worker whose turn it is sets the gauges, logs once, and tells; then the next does."""
    first, second = Turn(cluster, mine=True), Turn(cluster, mine=False)
    audited = "ledger_audited_timestamp_seconds"
    assert first.rounds.last() is None
    assert first.registry.get_sample_value(audited) == 0
    with caplog.at_level(logging.ERROR, "agents.audit.rounds"):
        running = [asyncio.create_task(each.rounds.run()) for each in (first, second)]
        document = await first.reported()
        again = await first.reported()
        assert document["verdict"] == "mismatch"
        # The next round may have ended meanwhile.
        assert (first.registry.get_sample_value(audited) or 0) >= again["at"] / 1000
        assert (first.mismatch(LOG_EVENTS) or 0) >= 2
        assert (first.mismatch(WINDOW_PARTIALS), first.mismatch(ENTITY_EVENTS)) == (1, 0)
        (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert f"{LOG_EVENTS}/{partition}: rejected" in told
        assert "difference +1" in told
        assert first.rounds.alert().startswith("the ledger does not balance: ")
        assert (second.rounds.last(), second.rounds.alert()) == (None, "")
        assert second.mismatch(LOG_EVENTS) is None

        first.mine = None  # between two assignments nothing that was read is given up
        await first.turned()
        assert first.rounds.last() is not None
        first.mine = True
        assert (await first.reported())["records_read"] < 100

        first.mine, second.mine = False, True
        document = await second.reported()
        assert document["verdict"] == "mismatch"
        assert document["records_read"] > COUNT
        assert second.rounds.alert()
        await first.turned()
        assert (first.rounds.last(), first.rounds.alert()) == (None, "")
        assert first.mismatch(LOG_EVENTS) is None
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def audit_of(worker: Worker) -> dict[str, object] | None:
    """What that worker alone has found; None when it has not audited."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{worker.port}{LEDGER}", headers={FORWARDED: "test"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            found: dict[str, object] | None = json.load(reply)["audit"]
    except OSError:
        return None
    return found


def test_when_the_worker_that_audits_is_lost_another_one_audits(
    cluster: Cluster, workers: list[Worker]
) -> None:
    entry = ("-m", "tests.audit.worker_entry")
    workers += [cluster.worker(entry=entry).ready(), cluster.worker(entry=entry).ready()]

    def one() -> tuple[Worker, Worker] | None:
        found = [audit_of(worker) is not None for worker in workers]
        first, second = workers
        return {(True, False): (first, second), (False, True): (second, first)}.get(tuple(found))

    auditing, other = wait_for("one of the two audits", one)
    auditing.kill()
    wait_for("the other one audits", lambda: audit_of(other))


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
