"""Stock Faust in a process of its own: what the engine is compared with.

``python -m benchmarks.stock BOOTSTRAP TOPIC EVENTS WARM_UP FOLDER STORE`` consumes the topic with
one agent and prints one JSON line: the usage between the event number WARM_UP and the last.
STORE is ``none`` (no table) or ``rocksdb`` (one table update per event).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import faust
from faust.types import StreamT

from benchmarks.process import Usage, usage


class Meter:
    """Notes the usage after ``warm_up`` events and reports it at the last."""

    def __init__(self, events: int, warm_up: int) -> None:
        self._events = events
        self._warm_up = warm_up
        self._seen = 0
        self._began: Usage | None = None

    def event(self) -> bool:
        """Count one event; True for the last."""
        self._seen += 1
        if self._seen == self._warm_up:
            self._began = usage(os.getpid())
        return self._seen == self._events

    def report(self, counted: int) -> None:
        """Print what was used since the warm-up; ``counted`` is what the agent has to show."""
        began, ended = self._began, usage(os.getpid())
        if began is None:
            raise ValueError("fewer events than the warm-up takes")
        seconds, cpu_s = ended.at - began.at, ended.cpu_s - began.cpu_s
        print(
            json.dumps({"seconds": seconds, "cpu_s": cpu_s, "counted": counted}),
            flush=True,
        )


def build(bootstrap: str, topic: str, meter: Meter, folder: str, store: str) -> faust.App:
    """One agent over JSON events, as Faust's tutorial writes it; every setting is Faust's own."""
    app = faust.App(
        f"{topic}-{store}",
        broker=f"kafka://{bootstrap}",
        store="memory://" if store == "none" else "rocksdb://",
        topic_partitions=4,
        topic_replication_factor=1,
        datadir=folder,
        web_enabled=False,
        value_serializer="json",
    )
    events_topic = app.topic(topic, partitions=4)

    async def plain(events: StreamT[Any]) -> None:
        counted = 0
        async for event in events:
            counted += event["status"] > 0
            if meter.event():
                meter.report(counted)

    async def with_table(events: StreamT[Any]) -> None:
        async for event in events:
            counts[event["endpoint"]] += 1
            if meter.event():
                meter.report(sum(counts.values()))

    if store == "none":
        app.agent(events_topic, name="plain")(plain)
    else:
        counts = app.Table("counts", default=int, partitions=4)
        app.agent(events_topic, name="with_table")(with_table)
    return app


def main() -> None:
    """Run until killed."""
    bootstrap, topic, events, warm_up, folder, store = sys.argv[1:]
    app = build(bootstrap, topic, Meter(int(events), int(warm_up)), folder, store)
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main()
