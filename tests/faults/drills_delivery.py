"""A worker dies between its effect and the commit that acknowledges what caused it.

A34.2 asks for a duplicate counter that goes up by one. Where effect and acknowledgement are one
transaction there is no duplicate to count: the first effect is aborted, and the redelivered record
counts as the first. So the copies are counted in the log, where readers of uncommitted data see
the aborted ones, and the ledger must say that nothing was a duplicate.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

from agents.topics import APPLICATION_LOGS, LOG_EVENTS
from tests.faults.fleet import Fleet, fleet
from tests.faults.run import Outcome
from tests.faults.steady import Steady, parts
from tests.faults.trap import HOLD
from tests.faults.verify import event_id
from tests.system.harness import Cluster, read_topic, wait_for

ATTEMPTS = 4
LOOK_S = 2.0


def redelivery_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """A worker is killed when its effect can be read, but not yet by readers of committed data."""
    outcome, began = Outcome("redelivery", seed), time.monotonic()
    with fleet(bootstrap, home, names=("a",)) as workers:
        (member,), cluster = workers.members, workers.cluster
        with contextlib.closing(Steady(cluster)) as steady:
            fed: list[str] = []
            for part in parts(ATTEMPTS, seed):
                acknowledged = _acknowledged(workers)
                member.trap.arm("offsets_sent", with_signal=HOLD)
                steady.feed(part, APPLICATION_LOGS)
                fed += [event["event_id"] for event in part]
                member.sprung()
                if _effect_seen(cluster):
                    break
                # An epoch of timers alone was caught.
                member.trap.let_go()
                steady.counted()
            member.worker.kill()
            aborted = _in_doubt(cluster)
            assert aborted, "no effect was caught before its commit"
            assert set(aborted.values()) == {1}
            assert _acknowledged(workers) == acknowledged
            outcome.faults.append(f"a@offsets_sent, {aborted.total()} in doubt")
            member.start()
            steady.counted()
            rows = member.worker.answer("/api/v1/ledger")["rows"]
            assert {row["duplicate"] for row in rows} == {0}
            assert workers.stop() == [0]
            assert _in_doubt(cluster) == aborted, "redelivered as often as it was aborted"
            assert _normalised(cluster, committed=True) == Counter(fed)
            steady.exact()
    outcome.seconds = time.monotonic() - began
    return outcome


def _effect_seen(cluster: Cluster) -> bool:
    with contextlib.suppress(AssertionError):
        return bool(wait_for("the effect is there", lambda: _in_doubt(cluster) or None, LOOK_S))
    return False


def _acknowledged(workers: Fleet) -> dict[int, int]:
    topic = workers.cluster.topic(APPLICATION_LOGS)
    return {tp[1]: position for tp, position in workers.committed().items() if tp[0] == topic}


def _in_doubt(cluster: Cluster) -> Counter[str]:
    """What normalising has written beyond what is committed, by event id."""
    return _normalised(cluster, committed=False) - _normalised(cluster, committed=True)


def _normalised(cluster: Cluster, *, committed: bool) -> Counter[str]:
    return Counter(map(event_id, read_topic(cluster, LOG_EVENTS, committed=committed)))
