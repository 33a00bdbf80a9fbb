"""A killed worker's partitions go on where their standbys are, at once and exactly."""

from __future__ import annotations

import re
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from agents.topics import WINDOW_CHANGELOG
from app.engine.partitioner import partition_for
from tests.faults.fleet import Fleet, Member, fleet
from tests.faults.load import Load
from tests.faults.verify import check_exact, finish
from tests.system.harness import read_topic, wait_for

pytestmark = [pytest.mark.broker, pytest.mark.faults]

ENDPOINTS = [f"/endpoint/{number}" for number in range(40)]
_LAG = re.compile(r'^state_store_lag\{table="window-partials"\} (\S+)$', re.MULTILINE)
_RESTORED = re.compile(r"restored \d+ partitions, (\d+) changelog records")


def lag(member: Member) -> float | None:
    """Lag of a worker's standbys; None where it has none."""
    found = _LAG.search(member.worker.get("/metrics")[1])
    return None if found is None else float(found[1])


def caught_up(member: Member) -> bool | None:
    return lag(member) == 0 or None


def window(member: Member, key: str, how: str = "?consistency=stale") -> tuple[int, Any]:
    path = f"/api/v1/windows/requests_per_endpoint/{urllib.parse.quote(key, safe='')}"
    return member.worker.get(path + how)


def same_windows(member: Member, key: str) -> bool | None:
    return window(member, key)[1]["windows"] == window(member, key, "")[1]["windows"] or None


def key_of(workers: Fleet, member: Member) -> str:
    """An endpoint whose partition the worker owns."""
    topic = workers.cluster.topic("window-partials")
    mine = {partition for t, partition in member.owned() if t == topic}
    partitions = workers.cluster.partitions
    return next(key for key in ENDPOINTS if partition_for(key.encode(), partitions) in mine)


def changelog_records(workers: Fleet) -> int:
    return len(read_topic(workers.cluster, WINDOW_CHANGELOG))


def restores(member: Member) -> list[int]:
    """Changelog records read by each restore of the worker so far."""
    return [int(n) for n in _RESTORED.findall(member.worker.log.read_text(errors="replace"))]


def test_a_standby_answers_takes_over_and_changes_no_window(kafka: str, tmp_path: Path) -> None:
    # What is asked after the kill is asked while the group still waits for the victim.
    with fleet(kafka, tmp_path, names=("a", "b"), session_timeout_ms=6_000) as workers:
        victim, heir = workers.members
        load = Load(workers.cluster, seed=3, total=24_000).start()
        try:
            load.limit = 0.5
            wait_for("half of it committed", lambda: load.reached(0.5))
            wait_for("the heir's standbys at the end", lambda: caught_up(heir))
            key = key_of(workers, victim)
            orphans = victim.owned()
            status, answer = window(heir, key)
            assert (status, answer["role"]) == (200, "standby")
            assert answer["worker"] == f"127.0.0.1:{heir.port}"
            assert answer["position"] > 0
            assert answer["staleness_ms"] >= 0
            owner = window(heir, key, "")[1]
            assert owner["worker"] == f"127.0.0.1:{victim.port}"
            assert "role" not in owner
            # The load is counted where it was read; the windows follow one hop behind.
            wait_for("owner and standby show the same", lambda: same_windows(heir, key))

            load.limit = 0.8
            wait_for("some of it in flight", lambda: load.reached(0.55))
            had = len(restores(heir))
            victim.worker.kill()
            killed = time.monotonic()
            assert window(heir, key, "")[0] == 504
            status, answer = window(heir, key)
            assert (status, answer["role"]) == (200, "standby")
            # Not read before the kill: the victim's last words would pass for the heir's first.
            before = {tp: at for tp, at in workers.committed().items() if tp in orphans}
            wait_for("the orphans have committed", lambda: workers.beyond(before))
            print(f"kill -9 to the orphans' next epoch: {time.monotonic() - killed:.2f} s")  # noqa: T201

            taken_over = restores(heir)[had]
            everything = changelog_records(workers)
            print(f"read to take over: {taken_over} of {everything} changelog records")  # noqa: T201
            assert taken_over * 10 < everything
            assert lag(heir) is None
            status, answer = window(heir, key)
            assert (status, answer["role"]) == (200, "active")
            workers.members.remove(victim)
            finish(load)
            assert workers.stop() == [0]
            check_exact(workers.cluster, load)
        finally:
            load.close()
