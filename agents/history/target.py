"""What an archiver is told, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from agents.history.pending import AGE_MAX_S
from app.engine.read_ahead import READ_AHEAD
from tables.history.place import Place


@dataclass(frozen=True, slots=True)
class ArchiveTarget:
    """What to archive, and where to. ``topics``: dataset name -> physical topic.

    ``member`` names this worker for good, so that it has its partitions again at once when
    it is restarted, and whoever comes back under a name that is taken is fenced.
    """

    bootstrap: str
    group: str
    member: str
    topics: Mapping[str, str]
    place: Place
    namespace: str
    session_timeout_ms: int
    age_max_s: float = AGE_MAX_S


class ArchiverMetrics:
    """What operators watch; how far it is behind, the lag of the consumer group tells."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("history_rows_total", "Rows archived", ["dataset"], registry=registry)
        self.rejected = Counter(
            "history_rejected_total", "Records that are no rows", ["dataset"], registry=registry
        )
        self.failures = Counter(
            "history_failures_total", "Times the archiver began anew", registry=registry
        )


def consumer_config(target: ArchiveTarget) -> dict[str, str | int | float | bool]:
    """The consumer: committed records only, and offsets stored once their file is durable."""
    return {
        "bootstrap.servers": target.bootstrap,
        "group.id": f"{target.group}-history",
        "group.instance.id": target.member,
        "client.id": f"{target.group}-history",
        "session.timeout.ms": target.session_timeout_ms,
        "heartbeat.interval.ms": target.session_timeout_ms // 5,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": True,
        "enable.auto.offset.store": False,
        "log_level": 0,
        **READ_AHEAD,
    }
