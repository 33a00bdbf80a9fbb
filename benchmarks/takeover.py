"""What is seen of a take-over from outside: who owns what, what is committed, what logs say."""

from __future__ import annotations

import re
import time
from datetime import datetime

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from tests.faults.fleet import Fleet, Member
from tests.faults.load import Load
from tests.system.harness import Cluster

_OWNED = re.compile(r'^consumer_lag\{partition="(\d+)",topic="([^"]+)"\}', re.MULTILINE)
_LAG = re.compile(r"^state_store_lag\{.*\} (\S+)$", re.MULTILINE)
_RESTORED = re.compile(r"restored \d+ partitions, (\d+) changelog records, in ([\d.]+) s")


def _metrics(member: Member) -> str:
    return str(member.worker.get("/metrics")[1])


def owned(member: Member) -> set[tuple[str, int]]:
    """Partitions of a worker: (physical topic, number)."""
    found = _OWNED.findall(_metrics(member))
    return {(member.cluster.topic(topic), int(partition)) for partition, topic in found}


def divided(workers: Fleet) -> bool:
    """Whether each partition has one owner, and the group is stable."""
    each = [owned(member) for member in workers.members]
    return sum(map(len, each)) == len(set().union(*each)) and workers.shared() is True


def current(member: Member) -> bool | None:
    """True once a worker's standbys are at the end of their changelogs, None before."""
    found = _LAG.search(_metrics(member))
    return (found is not None and float(found[1]) == 0) or None


def logged(member: Member) -> str:
    """The log of the member's process."""
    return member.worker.log.read_text(errors="replace")


def restores(log: str) -> list[tuple[int, float]]:
    """Records read and seconds taken, of each restore that a worker's log tells of."""
    return [(int(records), float(seconds)) for records, seconds in _RESTORED.findall(log)]


def beyond(load: Load, events: int) -> bool | None:
    """True once more events than that are committed, None before; raises what broke the load."""
    load.reached(0)
    return load.committed > events or None


class Group:
    """The consumer group of a cluster, watched."""

    def __init__(self, cluster: Cluster) -> None:
        self._admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 2})
        self._name = f"{cluster.namespace}.headrace"

    def moves(self) -> bool | None:
        """True while partitions change hands, None while they do not."""
        group = self._admin.describe_consumer_groups([self._name])[self._name].result()
        return group.state != ck.ConsumerGroupState.STABLE or None


class Orphans:
    """Partitions that a dead worker owned, until each has committed past where it stood."""

    def __init__(self, workers: Fleet, owned: set[tuple[str, int]], since: float) -> None:
        self._workers = workers
        self._since = since
        self._waiting = {tp: at for tp, at in workers.committed().items() if tp in owned}
        self.topics_s: dict[str, float] = {}

    def gone_on(self) -> bool | None:
        """True once all have, None before."""
        cluster = self._workers.cluster
        for tp, at in self._workers.committed().items():
            if at > self._waiting.get(tp, at):
                del self._waiting[tp]
                topic = tp[0].removeprefix(cluster.topic(""))
                self.topics_s[topic] = time.monotonic() - self._since
        return not self._waiting or None


def said_s(log: str, text: str, since: datetime) -> float:
    """Seconds until the log first says the text; 0 if it does not."""
    found = re.search(rf"^\[([-\d]+ [\d:,]+)\].*{text}", log, re.MULTILINE)
    return 0.0 if found is None else (_stamp(found[1]) - since).total_seconds()


def _stamp(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").astimezone()
