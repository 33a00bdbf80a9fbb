"""Acceptance of kills: whatever the disk remembers, the counts are those of a quiet run."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.broker.catalogue import load_catalogue
from app.broker.topics import ensure_topics
from tests.faults.fleet import Member, fleet, free_port
from tests.faults.load import START_MS, CommittedCount
from tests.faults.verify import await_windows
from tests.system.harness import (
    CHECKOUT,
    WINDOW_MS,
    Cluster,
    Feeder,
    Reference,
    committed_windows,
    events,
    wait_for,
)

pytestmark = [pytest.mark.broker, pytest.mark.faults]

PART = 1_500
RATE = 100
"""Events a second of event time: four parts cross the end of a minute, and none can be late."""


def parts(count: int, seed: int) -> Iterator[list[dict[str, Any]]]:
    start_ms = START_MS // WINDOW_MS * WINDOW_MS + 10_000
    made = events(seed, PART * count, keys=20, start_ms=start_ms, rate=RATE)
    return iter(lambda: list(itertools.islice(made, PART)), [])


class Steady:
    """Feeds part by part and waits until each is counted."""

    def __init__(self, cluster: Cluster) -> None:
        self.reference = Reference()
        self._cluster = cluster
        self._feeder = Feeder(cluster)
        self._counter = CommittedCount(cluster)
        self._fed = 0

    def feed(self, part: list[dict[str, Any]]) -> None:
        self._feeder.send(part, self.reference)
        self._feeder.flush()
        self._fed += len(part)

    def counted(self) -> None:
        wait_for("all is counted", lambda: self._counter.poll() >= self._fed or None)
        await_windows(self._cluster, self._fed)

    def close(self) -> None:
        self._counter.close()


def killed(member: Member) -> None:
    """Wait until the worker's trap has killed it."""
    member.sprung()
    assert member.worker.process.wait(10) == -signal.SIGKILL


def counts(bootstrap: str, home: Path, *, disturbed: bool) -> dict[tuple[str, int], int]:
    with fleet(bootstrap, home, names=("a",)) as workers:
        member = workers.members[0]
        steady = Steady(workers.cluster)
        try:
            for number, part in enumerate(parts(4, seed=44)):
                wipes = number == 2
                if disturbed and number in (0, 2):
                    member.trap.arm("committed" if wipes else "produced")
                steady.feed(part)
                if disturbed and number in (0, 2):
                    killed(member)
                    if wipes:
                        member.wipe()
                    member.start()
                steady.counted()
            member.ready()
        finally:
            steady.close()
        assert workers.stop() == [0]
        found = committed_windows(workers.cluster)
        assert not steady.reference.differences(found)
        return {row: stats.count for row, stats in found.items()}


def test_a44_6_kills_mid_minute_with_disk_kept_and_wiped_count_like_an_undisturbed_run(
    kafka: str, tmp_path: Path
) -> None:
    quiet = counts(kafka, tmp_path / "quiet", disturbed=False)
    assert counts(kafka, tmp_path / "killed", disturbed=True) == quiet


def test_a46_7_windows_equal_the_reference_after_three_kills(kafka: str, tmp_path: Path) -> None:
    """The windows part only: records of final windows do not exist yet."""
    with fleet(kafka, tmp_path, names=("a",)) as workers:
        member = workers.members[0]
        steady = Steady(workers.cluster)
        try:
            steps = ("begun", "offsets_sent", "committed")
            for part, step in zip(parts(3, seed=46), steps, strict=True):
                member.trap.arm(step, nth=2)
                steady.feed(part)
                killed(member)
                member.start()
            member.ready()
            steady.counted()
        finally:
            steady.close()
        assert workers.stop() == [0]
        assert not steady.reference.differences(committed_windows(workers.cluster))


def test_a_worker_refuses_topics_with_another_partition_count(
    kafka: str, namespace: str, tmp_path: Path
) -> None:
    catalogue = load_catalogue(CHECKOUT / "config" / "topics.yaml")
    ensure_topics(kafka, catalogue, namespace=namespace, partitions=4, replication=1, timeout_s=30)
    worker = Cluster(kafka, namespace, tmp_path, partitions=3).worker(free_port())
    try:
        assert worker.process.wait(30) == 1
    finally:
        worker.kill()
    said = worker.tail()
    assert "Traceback" not in said
    assert f"{namespace}.application-logs" in said
    assert "HEADRACE_PARTITIONS" in said
