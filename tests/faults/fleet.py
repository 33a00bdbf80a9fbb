"""Workers of one drill: each with a trap, a home that can be wiped, and a log to show."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from agents.topics import APPLICATION_LOGS, LOG_EVENTS, WINDOW_PARTIALS
from tests.faults.trap import FOLDER, Plan, Trap
from tests.system.harness import Cluster, Worker, free_port, wait_for

TOPICS = (APPLICATION_LOGS, LOG_EVENTS, WINDOW_PARTIALS)
"""Topics that a load moves on."""
TERM_S = 60.0
"""A worker that is asked to go has gone by then."""
LOG_LINES = 80
SESSION_TIMEOUT_MS = 3_000
"""Short, so that take-over is quick; a heartbeat each 0.6 s leaves room on a busy machine."""

Share = set[tuple[str, int]]
"""Partitions, each as (physical topic, number)."""
_OWNED = re.compile(r'^consumer_lag\{partition="(\d+)",topic="([^"]+)"\}', re.MULTILINE)


@dataclass
class Member:
    """A worker that can be killed, stopped and started anew on the same home."""

    cluster: Cluster
    name: str
    port: int
    trap: Trap
    worker: Worker
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return home_of(self.cluster, self.name)

    def start(self) -> None:
        """Start the process (again)."""
        self.worker = start_worker(self.cluster, self.name, self.port, self.trap, self.environment)

    def ready(self) -> None:
        """Wait until /ready answers 200."""
        self.worker.ready()

    def is_ready(self) -> bool | None:
        """Whether /ready answers 200 now, or None."""
        assert self.worker.process.poll() is None, f"{self.name} ended:\n{self.worker.tail()}"
        return self.worker.get("/ready")[0] == 200 or None

    def owned(self) -> Share:
        """Its partitions, as its metrics name them."""
        _, text = self.worker.get("/metrics")
        return {(self.cluster.topic(topic), int(p)) for p, topic in _OWNED.findall(text)}

    def wipe(self) -> None:
        """Lose the disk: state, and the identity of the worker."""
        shutil.rmtree(self.home)

    def sprung(self) -> Plan:
        """Wait until the trap has sprung."""
        return wait_for(f"trap of {self.name} springs", self.trap.sprung)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.worker.process.send_signal(number)

    def logged(self, text: str) -> bool | None:
        """Whether its log holds the text, or None."""
        return self.said(text) > 0 or None

    def said(self, text: str) -> int:
        """How often its log holds the text."""
        return self.worker.log.read_text(errors="replace").count(text)


def home_of(cluster: Cluster, name: str) -> Path:
    return cluster.home / name


def start_worker(
    cluster: Cluster, name: str, port: int, trap: Trap, environment: Mapping[str, str]
) -> Worker:
    home = home_of(cluster, name)
    home.mkdir(parents=True, exist_ok=True)
    extra = {"HEADRACE_HOME": str(home), FOLDER: str(trap.folder), **environment}
    return cluster.worker(port, entry=("-m", "tests.faults.worker_entry"), **extra)


class Fleet:
    """The workers of a cluster and the consumer group they form."""

    def __init__(self, cluster: Cluster, environment: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.environment = environment
        self.members: list[Member] = []
        self._admin = AdminClient(
            {
                "bootstrap.servers": cluster.bootstrap,
                "log_level": 0,
                # Else it asks the coordinator of before the broker's restart for ever.
                "metadata.recovery.strategy": "none",
            }
        )
        self._group = f"{cluster.namespace}.headrace"
        # A consumer that never joins; read_uncommitted answers at once, whatever is pending.
        self._group_offsets = ck.Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "group.id": self._group,
                "isolation.level": "read_uncommitted",
                "enable.auto.commit": False,
                "metadata.recovery.strategy": "none",
                "log_level": 0,
            }
        )

    def add(self, name: str) -> Member:
        """Start one more worker."""
        port, trap = free_port(), Trap(self.cluster.home / f"trap-{name}")
        worker = start_worker(self.cluster, name, port, trap, self.environment)
        member = Member(self.cluster, name, port, trap, worker, self.environment)
        self.members.append(member)
        return member

    def shares(self) -> list[Share] | None:
        """What each member of a stable group was given; None while it rebalances."""
        try:
            group = self._admin.describe_consumer_groups([self._group], request_timeout=30)[
                self._group
            ].result()
        except ck.KafkaException:
            return None
        if group.state != ck.ConsumerGroupState.STABLE:
            return None
        return [
            {(tp.topic, tp.partition) for tp in member.assignment.topic_partitions}
            for member in group.members
        ]

    def shared(self) -> bool | None:
        """True once every member owns something and is ready."""
        shares = self.shares()
        if shares is None or len(shares) != len(self.members) or not all(shares):
            return None
        return all(member.is_ready() for member in self.members) or None

    def evenly(self) -> bool | None:
        """True once all are ready and own what the group gave them; None before.

        Fails unless every partition then has exactly one owner, and each member the same
        number of each topic's: the count of partitions must be a multiple of the members'.
        """
        shares = self.shares()
        if shares is None or len(shares) != len(self.members) or not self.shared():
            return None
        partitions = self.cluster.partitions
        given = [tp for share in shares for tp in share]
        topics = {topic for topic, _ in given}
        assert topics >= {self.cluster.topic(name) for name in TOPICS}
        assert len(given) == len(set(given)), "a partition was given to two members"
        assert set(given) == {(topic, p) for topic in topics for p in range(partitions)}
        for share in shares:
            of_each = Counter(topic for topic, _ in share)
            assert of_each == dict.fromkeys(topics, partitions // len(shares)), of_each
        owned = [member.owned() for member in self.members]
        return sorted(map(sorted, owned)) == sorted(map(sorted, shares)) or None

    def committed(self) -> dict[tuple[str, int], int]:
        """Committed offset of each partition under load; -1 where there is none yet."""
        wanted = [
            ck.TopicPartition(self.cluster.topic(topic), partition)
            for topic in TOPICS
            for partition in range(self.cluster.partitions)
        ]
        return {
            (tp.topic, tp.partition): max(tp.offset, -1)
            for tp in self._group_offsets.committed(wanted, 60)
        }

    def beyond(self, before: dict[tuple[str, int], int]) -> bool | None:
        """True once every partition has been committed past where it stood, or None."""
        now = self.committed()
        return all(now[tp] > offset for tp, offset in before.items()) or None

    def stop(self) -> list[int]:
        """SIGTERM everyone at once; exit codes."""
        for member in self.members:
            member.signal(signal.SIGTERM)
        return [member.worker.process.wait(TERM_S) for member in self.members]

    def logs(self) -> str:
        """The end of each worker's log."""
        return "\n".join(
            f"--- {member.name} ({member.worker.log.name})\n{member.worker.tail(LOG_LINES)}"
            for member in self.members
        )


@contextlib.contextmanager
def fleet(
    bootstrap: str,
    home: Path,
    *,
    session_timeout_ms: int = SESSION_TIMEOUT_MS,
    partitions: int = 4,
    names: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Fleet]:
    """A cluster in a namespace of its own; workers never outlive it, and a failure shows logs.

    ``environment`` goes to every worker, over what the cluster gives it.
    """
    cluster = Cluster(bootstrap, f"f-{uuid.uuid4().hex[:10]}", home, partitions, session_timeout_ms)
    workers = Fleet(cluster, environment or {})
    try:
        for name in names:
            workers.add(name)
        if names:
            wait_for("all workers own partitions and are ready", workers.shared)
        yield workers
    except BaseException as exc:
        exc.add_note(workers.logs())
        raise
    finally:
        for member in workers.members:
            member.worker.kill()
