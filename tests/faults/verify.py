"""What must hold at the end of every drill, read when no worker runs any more."""

from __future__ import annotations

import json
from collections import Counter

from agents.topics import DEAD_LETTERS, LATE_EVENTS, LOG_EVENTS
from tests.faults.load import CommittedCount, Load
from tests.system.harness import Cluster, committed_windows, read_topic, wait_for


def finish(load: Load, timeout_s: float = 60.0) -> None:
    """Let the load come to its end, and wait until all of it is committed."""
    load.limit = 1.0
    wait_for("everything is committed", load.finished, timeout_s)


def check_exact(cluster: Cluster, load: Load) -> None:
    """Every window equals the reference, in full; no topic downstream holds anything twice."""
    differences = load.reference.differences(committed_windows(cluster))
    assert not differences, "\n".join(differences[:20])
    counter = CommittedCount(cluster)
    try:
        while counter.poll() < load.total:
            pass
        assert (counter.poll(), load.committed) == (load.total, load.total), "partials doubled"
    finally:
        counter.close()
    ids = Counter(
        json.loads(message.value() or b"")["event_id"]
        for message in read_topic(cluster, LOG_EVENTS)
    )
    twice = [event_id for event_id, times in ids.items() if times > 1]
    assert not twice, f"{len(twice)} events are twice on {LOG_EVENTS}, such as {twice[:3]}"
    assert len(ids) == load.total
    for topic in (LATE_EVENTS, DEAD_LETTERS):
        found = read_topic(cluster, topic)
        assert not found, f"{len(found)} records on {topic}, such as {found[0].headers()}"
