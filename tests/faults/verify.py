"""What must hold at the end of every drill, read when no worker runs any more."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import confluent_kafka as ck

from agents.audit.auditor import TOPICS, Auditor
from agents.audit.facts import audited
from agents.audit.reader import AuditTarget, Reader
from agents.topics import DEAD_LETTERS, LATE_EVENTS, LOG_EVENTS
from tables.sessions.config import load_sessions
from tables.windows.spec import load_windows
from tests.faults.load import CommittedCount, Load
from tests.faults.reference import WINDOWS, DrillReference, committed_visits, latest_finals
from tests.system.harness import (
    CHECKOUT,
    Cluster,
    Row,
    committed_windows,
    read_topic,
    total,
    wait_for,
)

RECORD_MAX = 2 << 20
"""The topics' max.message.bytes."""
Coordinates = tuple[str, int, int]
"""Topic (catalogue name), partition, offset."""


def finish(load: Load) -> None:
    """Let the load come to its end, and wait until windows and sessions hold all of it."""
    load.limit = 1.0
    wait_for("everything is committed", load.finished, 180)
    await_windows(load.cluster, load.total)

    def held() -> bool | None:
        return sum(visit[-1] for visit in committed_visits(load.cluster)) >= load.total or None

    wait_for(f"sessions hold {load.total} events", held)


def await_windows(cluster: Cluster, events: int) -> None:
    """Wait until the committed windows hold so many events."""
    for window in WINDOWS:

        def held(window: str = window) -> bool | None:
            return total(committed_windows(cluster, window)) >= events or None

        wait_for(f"{window} holds {events} events", held)


def check_exact(cluster: Cluster, load: Load) -> None:
    """Windows and sessions equal the reference, ids are there once and in order, the ledger
    balances."""
    check_windows(cluster, load.reference, load.total)
    assert load.committed == load.total
    records = read_topic(cluster, LOG_EVENTS)
    ids = Counter(event_id(record) for record in records)
    twice = [each for each, times in ids.items() if times > 1]
    assert not twice, f"{len(twice)} events are twice on {LOG_EVENTS}, such as {twice[:3]}"
    assert len(ids) == load.total
    check_order(records, load.normalised)
    check_ledger(cluster)
    for topic in (LATE_EVENTS, DEAD_LETTERS):
        found = read_topic(cluster, topic)
        assert not found, f"{len(found)} records on {topic}, such as {found[0].headers()}"


def event_id(record: ck.Message) -> str:
    """Id of the event that a record of ``log-events`` holds."""
    found: str = json.loads(record.value() or b"")["event_id"]
    return found


def check_order(records: Iterable[ck.Message], normalised: Mapping[bytes, list[str]]) -> None:
    """Each key's sequence came through normalising as it was fed: no gap, repeat, inversion."""
    wanted = {each for ids in normalised.values() for each in ids}
    found: dict[bytes, list[str]] = defaultdict(list)
    homes: dict[bytes, set[int]] = defaultdict(set)
    for record in records:
        key, found_id = record.key() or b"", event_id(record)
        homes[key].add(record.partition() or 0)
        if found_id in wanted:
            found[key].append(found_id)
    assert found.keys() == normalised.keys()
    wrong = [key for key, ids in normalised.items() if found[key] != ids]
    assert not wrong, f"the sequences of {wrong} are broken"
    apart = [key for key, partitions in homes.items() if len(partitions) > 1]
    assert not apart, f"{apart} are on several partitions"


def check_ledger(cluster: Cluster) -> None:
    """The auditor, which shares no counting code with the workers, finds every account exact."""
    windows = load_windows(CHECKOUT / "config" / "windows.yaml")
    configured = audited(windows, load_sessions(CHECKOUT / "config" / "sessions.yaml"))
    partitions = dict.fromkeys(TOPICS, cluster.partitions)
    group = cluster.topic("headrace")
    target = AuditTarget(cluster.bootstrap, group, cluster.topic, partitions, RECORD_MAX)
    reader = Reader(target, 1.0, lambda: False)
    try:
        report = Auditor(reader, configured, lambda: int(time.time() * 1000)).round()
    finally:
        reader.close()
    wrong = [finding.sentence() for finding in report.mismatches]
    assert report.verdict == "balanced", "\n".join([report.verdict, *wrong, *report.notes])


def check_windows(cluster: Cluster, reference: DrillReference, events: int) -> None:
    """All state and final records equal the reference, and so do the partials on their way."""
    reference.check(cluster)
    counter = CommittedCount(cluster)
    try:
        wait_for("all partials read", lambda: counter.poll() >= events or None)
        assert counter.poll() == events, "partials doubled"
    finally:
        counter.close()


def final_windows(
    cluster: Cluster, window: str = "requests_per_endpoint"
) -> dict[Row, dict[str, Any]]:
    """Figures of the latest final record of each window; no id may be there twice."""
    return {
        (key, start): {
            "count": record["count"],
            "errors": record["errors"],
            **{figure: round(record[figure] * 1000) for figure in ("sum", "min", "max")},
        }
        for (name, key, start), record in latest_finals(cluster).items()
        if name == window
    }


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
