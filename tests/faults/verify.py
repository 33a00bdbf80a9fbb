"""What must hold at the end of every drill, read when no worker runs any more."""

from __future__ import annotations

import json
from collections import Counter

from agents.topics import DEAD_LETTERS, LATE_EVENTS, LOG_EVENTS
from tests.faults.load import CommittedCount, Load
from tests.system.harness import (
    Cluster,
    Reference,
    committed_windows,
    read_topic,
    total,
    wait_for,
)

Coordinates = tuple[str, int, int]
"""Topic (catalogue name), partition, offset."""


def finish(load: Load, timeout_s: float = 90.0) -> None:
    """Let the load come to its end, and wait until all of it is committed, in windows too."""
    load.limit = 1.0
    wait_for("everything is committed", load.finished, timeout_s)
    await_windows(load.cluster, load.total)


def await_windows(cluster: Cluster, events: int) -> None:
    """Wait until the committed windows hold so many events."""

    def held() -> bool | None:
        return total(committed_windows(cluster)) >= events or None

    wait_for(f"windows hold {events} events", held, 30)


def check_exact(cluster: Cluster, load: Load) -> None:
    """Every window equals the reference, in full; no topic downstream holds anything twice."""
    check_windows(cluster, load.reference, load.total)
    assert load.committed == load.total
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


def check_windows(cluster: Cluster, reference: Reference, events: int) -> None:
    """Every window equals the reference, in full, and so do the partials on their way."""
    differences = reference.differences(committed_windows(cluster))
    assert not differences, "\n".join(differences[:20])
    counter = CommittedCount(cluster)
    try:
        while counter.poll() < events:
            pass
        assert counter.poll() == events, "partials doubled"
    finally:
        counter.close()


def dead_coordinates(cluster: Cluster) -> Counter[Coordinates]:
    """How often each record stands among the dead letters, by where it was read."""
    found: Counter[Coordinates] = Counter()
    for message in read_topic(cluster, DEAD_LETTERS):
        headers: dict[str, bytes] = dict(message.headers() or [])  # type: ignore[arg-type]
        found[
            headers["original_topic"].decode(),
            int(headers["original_partition"]),
            int(headers["original_offset"]),
        ] += 1
    return found
