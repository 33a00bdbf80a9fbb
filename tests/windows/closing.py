"""Windows end to end on the brokerless engine: events in, final records out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from agents.log_events.agent import log_events_agent
from agents.topics import LOG_EVENTS, WINDOW_PARTIALS, WINDOWS_FINAL
from agents.windows.agent import windows_agent
from app.engine.driver import Driver
from app.engine.effects import Output
from app.engine.lanes import LANE_HEADER
from tables.windows.finals import WindowRecord, decode_record
from tables.windows.spec import WindowSpec
from tests.windows.driver import HOUR, NOW, TEN, event

Event = dict[str, Any]
"""``timestamp`` and other fields of an event."""
Key = tuple[str, str, int]


class Closing:
    """Both agents over several partitions, all of which have been heard of."""

    def __init__(self, *specs: WindowSpec, sources: int = 3, targets: int = 2) -> None:
        self.specs = specs
        self.sources = sources
        self.driver = Driver(
            (log_events_agent(specs), windows_agent(specs)),
            {LOG_EVENTS: sources, WINDOW_PARTIALS: targets},
            NOW,
        )
        self.driver.advance(1_000)  # every partition announces its live lane

    def feed(self, events: Sequence[Event], partition: int = 0, lane: str | None = None) -> None:
        """One batch."""
        headers = () if lane is None else ((LANE_HEADER, lane.encode()),)
        values = [event(**each) for each in events]
        self.driver.feed(LOG_EVENTS, values, partition=partition, headers=headers)

    def clock(self, timestamp: int, *partitions: int) -> None:
        """Event time of live traffic goes on (everywhere, unless partitions are named)."""
        for partition in partitions or range(self.sources):
            self.feed([{"timestamp": timestamp, "endpoint": None}], partition)
        self.driver.advance(1_000)  # marks that no partial carried are told once a second

    def finish(self) -> None:
        """Close every window of these tests."""
        self.clock(TEN + HOUR + HOUR - 1)

    def outputs(self, topic: str = WINDOWS_FINAL) -> list[Output]:
        """Records as they were written."""
        return list(self.driver.topics[topic])

    def finals(self) -> list[WindowRecord]:
        """Final records in the order in which they were written."""
        return [decode_record(output.value or b"") for output in self.outputs()]

    def latest(self) -> dict[Key, WindowRecord]:
        """The latest revision of each window; revisions must count from 1, each once."""
        revisions: dict[Key, list[WindowRecord]] = defaultdict(list)
        for record in self.finals():
            revisions[record.name, record.key, record.start].append(record)
        for records in revisions.values():
            assert [r.revision for r in records] == list(range(1, len(records) + 1))
        return {key: records[-1] for key, records in revisions.items()}


def counted(specs: Sequence[WindowSpec], events: Sequence[Event]) -> dict[Key, dict[str, Any]]:
    """Count, errors, sum, min and max of every window that holds an event, counted plainly."""
    found: dict[Key, list[Event]] = defaultdict(list)
    for spec in specs:
        for each in events:
            moment = each["timestamp"]
            start = moment - moment % spec.advance_ms
            while start > moment - spec.size_ms:
                found[spec.name, each[spec.key], start].append(each)
                start -= spec.advance_ms
    return {key: _figures(inside) for key, inside in found.items()}


def _figures(events: list[Event]) -> dict[str, Any]:
    latencies = [each["latency_ms"] for each in events]
    statuses = [each["status"] for each in events]
    return {
        "count": len(events),
        "errors": sum(status >= 500 for status in statuses),
        "sum": float(sum(latencies)),
        "min": min(latencies),
        "max": max(latencies),
        "codes": {
            str(e["status"]): [o["status"] for o in events].count(e["status"]) for e in events
        },
    }


def said(records: dict[Key, WindowRecord]) -> dict[Key, dict[str, Any]]:
    """The same figures of final records."""
    names = ("count", "errors", "sum", "min", "max", "codes")
    return {key: {name: getattr(record, name) for name in names} for key, record in records.items()}


def document(output: Output) -> dict[str, Any]:
    """A record's JSON."""
    found: dict[str, Any] = json.loads(output.value or b"")
    return found
