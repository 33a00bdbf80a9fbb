"""Load that goes on for as long as a drill needs, and the count of what is committed."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict

import confluent_kafka as ck
import msgspec

from agents.topics import APPLICATION_LOGS, LOG_EVENTS, WINDOW_PARTIALS
from agents.windows.repartition import decode_partial
from app.engine.chunks import decode_chunk
from tests.faults.reference import REQUESTS, DrillReference
from tests.system.harness import Cluster, Feeder, events

START_MS = 1_790_000_000_000
EVENTS_PER_EVENT_SECOND = 500
"""Event time runs this slowly so that a drill crosses minutes; a backlog must stay below the
windows' grace of 30 s, or being late would be right."""
BACKLOG_MAX = 5_000
USERS = 40


class CommittedCount:
    """Events whose partials are committed, read on and on as a committed reader sees them."""

    def __init__(self, cluster: Cluster) -> None:
        self.count = 0
        topic = cluster.topic(WINDOW_PARTIALS)
        self._consumer = ck.Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "group.id": f"{cluster.namespace}-count",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "reconnect.backoff.max.ms": 500,
            }
        )
        partitions = range(cluster.partitions)
        self._consumer.assign([ck.TopicPartition(topic, p, 0) for p in partitions])

    def poll(self) -> int:
        """The count now; waits up to 20 ms for more."""
        for message in self._consumer.consume(2_000, 0.02):
            if message.error() is None:
                self.count += _counted(message.value() or b"")
        return self.count

    def close(self) -> None:
        """Leave the topic."""
        self._consumer.close()


def _counted(raw: bytes) -> int:
    """Events that a record of partials speaks of; none, if it is garbage."""
    try:
        partials = [decode_partial(part) for part in decode_chunk(raw).partials]
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return 0
    return sum(stats.count for (name, _, _), stats in partials if name == REQUESTS)


class Load:
    """Feeds ``total`` seeded events from a thread, at most ``rate`` a second.

    It stops at ``limit`` (a share of the total, moved on by the drill) and never runs more
    than :data:`BACKLOG_MAX` events ahead of what is committed. Every third event takes the
    way through ``application-logs``, so that the normaliser's transactions are hit as well.
    """

    def __init__(self, cluster: Cluster, *, seed: int, total: int, rate: int = 4_000) -> None:
        self.cluster = cluster
        self.total = total
        self.rate = rate
        self.limit = 1.0
        self.fed = 0
        self.committed = 0
        self.reference = DrillReference()
        self.normalised: dict[bytes, list[str]] = defaultdict(list)
        """Ids fed by way of ``application-logs``, in order, by the key they get downstream."""
        self._events = events(
            seed, total, keys=40, start_ms=START_MS + 37_000, rate=EVENTS_PER_EVENT_SECOND
        )
        self._feeder = Feeder(cluster)
        self._counter = CommittedCount(cluster)
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> Load:
        """Begin."""
        self._thread.start()
        return self

    def progress(self) -> float:
        """Committed share of the total."""
        return self.committed / self.total

    def reached(self, share: float) -> bool | None:
        """True once that share is committed, None before; raises what broke the feeding."""
        if self._error is not None:
            raise self._error
        return self.progress() >= share or None

    def finished(self) -> bool | None:
        """True once everything is fed and committed."""
        return (self.fed == self.total and self.reached(1.0)) or None

    def close(self) -> None:
        """Stop feeding; call it after the last check of progress."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(30)
        self._counter.close()

    def _run(self) -> None:
        try:
            began, at_began = time.monotonic(), 0
            while not self._over.is_set():
                self.committed = self._counter.poll()
                allowed = min(int(self.limit * self.total), self.committed + BACKLOG_MAX)
                due = at_began + int((time.monotonic() - began) * self.rate)
                if allowed < due:
                    began, at_began = time.monotonic(), self.fed
                self._feed(min(allowed, due) - self.fed)
        except BaseException as exc:  # noqa: BLE001 - raised again by the drill
            self._error = exc

    def _feed(self, count: int) -> None:
        for made in itertools.islice(self._events, max(0, count)):
            event = {**made, "user_id": f"user-{self.fed % USERS}"}
            topic = APPLICATION_LOGS if self.fed % 3 == 0 else LOG_EVENTS
            if topic == APPLICATION_LOGS:
                self.normalised[event["service"].encode()].append(event["event_id"])
            self._feeder.send((event,), self.reference, topic)
            self.fed += 1
        if self.fed == self.total:
            self._feeder.flush()
