"""Acceptance of kills: whatever the disk remembers, the counts are those of a quiet run."""

from __future__ import annotations

import contextlib
import itertools
import signal
from pathlib import Path

import pytest

from agents.topics import APPLICATION_LOGS, LOG_EVENTS
from app.broker.catalogue import load_catalogue
from app.broker.topics import ensure_topics
from tests.faults.drills_delivery import redelivery_drill
from tests.faults.drills_input import in_transaction, transactional
from tests.faults.fleet import Member, fleet
from tests.faults.steady import Steady, parts
from tests.faults.trap import POISON, STORED
from tests.faults.verify import dead_coordinates, event_id, final_windows
from tests.system.harness import (
    CHECKOUT,
    WINDOW_MS,
    Cluster,
    Row,
    committed_windows,
    read_topic,
    wait_for,
)

pytestmark = [pytest.mark.broker, pytest.mark.faults]


def killed(member: Member) -> None:
    """Wait until the worker's trap has killed it."""
    member.sprung()
    assert member.worker.process.wait(60) == -signal.SIGKILL


def totals(cluster: Cluster) -> dict[Row, tuple[int, int, int]]:
    """Events, errors and summed latency of each window."""
    rows = committed_windows(cluster).items()
    return {row: (stats.count, stats.errors, stats.sum) for row, stats in rows}


def test_a34_2_a42_4_an_effect_killed_before_its_commit_is_redelivered_and_counts_once(
    kafka: str, tmp_path: Path
) -> None:
    assert len(redelivery_drill(kafka, tmp_path, seed=1).faults) == 1


def test_a34_3_a34_6_a_record_that_breaks_the_handler_is_dead_lettered_and_delays_no_other(
    kafka: str, tmp_path: Path
) -> None:
    good = [{**event, "service": "shop"} for event in next(parts(1, seed=343))[:100]]
    poison = {**good[0], "event_id": "ff" * 16, "message": POISON.decode()}
    with fleet(kafka, tmp_path, names=("a",)) as workers:
        cluster = workers.cluster
        with contextlib.closing(Steady(cluster)) as steady:
            steady.expect(good)
            # They become readable at once, so that one batch holds them all.
            among = [*good[:50], poison, *good[50:]]
            in_transaction(transactional(cluster, "shop"), cluster, among, topic=APPLICATION_LOGS)
            steady.counted()
            assert workers.stop() == [0]
            steady.exact()
        [lost] = [m for m in read_topic(cluster, APPLICATION_LOGS) if POISON in (m.value() or b"")]
        partition, offset = lost.partition() or 0, lost.offset() or 0
        assert dead_coordinates(cluster) == {(APPLICATION_LOGS, partition, offset): 1}
        assert workers.committed()[cluster.topic(APPLICATION_LOGS), partition] > offset + 50
        done = read_topic(cluster, LOG_EVENTS)
        assert [event_id(record) for record in done] == [event["event_id"] for event in good]
        # A commit leaves its mark in the log: records without one between them are of one epoch.
        marks = [b.offset() - a.offset() - 1 for a, b in itertools.pairwise(done)]
        assert sum(marks) <= 1, "good records were held back beyond the next epoch"


def test_a42_3_a44_6_kills_before_and_after_commit_with_disk_kept_and_wiped_change_no_total(
    kafka: str, tmp_path: Path
) -> None:
    kills = itertools.product(("offsets_sent", "committed", STORED), (False, True))
    with (
        fleet(kafka, tmp_path / "quiet") as quiet,
        fleet(kafka, tmp_path / "killed") as shaken,
        contextlib.closing(Steady(quiet.cluster)) as undisturbed,
        contextlib.closing(Steady(shaken.cluster)) as steady,
    ):
        quiet.add("a")
        member = shaken.add("a")
        for workers in (quiet, shaken):
            wait_for("the worker is ready", workers.shared)
        for (step, wipes), part in zip(kills, parts(6, seed=44), strict=True):
            member.trap.arm(step)
            undisturbed.feed(part)
            steady.feed(part)
            killed(member)
            if wipes:
                member.wipe()
            member.start()
            steady.counted()
        undisturbed.counted()
        member.ready()
        assert quiet.stop() == shaken.stop() == [0]
        undisturbed.exact()
        steady.exact()
        assert totals(shaken.cluster) == totals(quiet.cluster)


def test_a46_7_windows_and_their_final_records_equal_the_reference_after_three_kills(
    kafka: str, tmp_path: Path
) -> None:
    with fleet(kafka, tmp_path, names=("a",)) as workers:
        member = workers.members[0]
        with contextlib.closing(Steady(workers.cluster)) as steady:
            made = [event for part in parts(4, seed=46) for event in part]
            ends = {
                event["service"]: {**event, "event_id": f"{n:032x}"[:8] + event["event_id"][8:]}
                for n, event in enumerate(made, start=1)
            }
            later = made[-1]["timestamp"] + 10 * WINDOW_MS
            closing = [{**event, "timestamp": later} for event in ends.values()]
            # The last kill falls into the epoch of the final records, or the one before it.
            fed = (made[:3_000], made[3_000:], closing)
            for part, step in zip(fed, ("begun", "offsets_sent", "committed"), strict=True):
                member.trap.arm(step, nth=2)
                steady.feed(part)
                killed(member)
                member.start()
            member.ready()
            steady.counted()
            before = {row: want for row, want in steady.reference.rows.items() if row[1] < later}
            cluster = workers.cluster
            wait_for(
                "all is final", lambda: len(final_windows(workers.cluster)) >= len(before) or None
            )
            assert workers.stop() == [0]
            steady.exact()
        found = final_windows(cluster)
        assert {row: found[row] for row in before} == {
            row: {name: want[name] for name in ("count", "errors", "sum", "min", "max")}
            for row, want in before.items()
        }


def test_a_worker_refuses_topics_with_another_partition_count(
    kafka: str, namespace: str, tmp_path: Path
) -> None:
    catalogue = load_catalogue(CHECKOUT / "config" / "topics.yaml")
    ensure_topics(kafka, catalogue, namespace=namespace, partitions=4, replication=1, timeout_s=60)
    worker = Cluster(kafka, namespace, tmp_path, partitions=3).worker()
    try:
        assert worker.ended() == 1
    finally:
        worker.kill()
    said = worker.tail()
    assert "Traceback" not in said
    assert f"{namespace}.application-logs" in said
    assert "HEADRACE_PARTITIONS" in said
