"""The Kafka this process uses, with every topic of the catalogue in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.broker.catalogue import load_catalogue
from app.broker.embedded import ensure_broker
from app.broker.topics import ensure_topics
from app.settings import CONFIG_DIR, Settings

EMBEDDED_PARTITIONS = 4
CLUSTER_REPLICATION = 3
TOPICS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Kafka:
    """Brokers (``host:port,host:port``), partitions by topic (catalogue names), largest record."""

    bootstrap: str
    partitions: Mapping[str, int]
    record_bytes_max: int


def connect(settings: Settings, *, progress: Callable[[str], None]) -> Kafka:
    """Find or start the broker, and create the topics that are missing.

    Raises :class:`app.broker.errors.BrokerError`, whose text says what to do.
    """
    catalogue = load_catalogue(CONFIG_DIR / "topics.yaml")
    if settings.broker is None:
        bootstrap = ensure_broker(settings.home, progress=progress).bootstrap
    else:
        bootstrap = ",".join(part.removeprefix("kafka://") for part in settings.broker.split(";"))
    partitions = settings.partitions or (EMBEDDED_PARTITIONS if settings.embedded else None)
    counts = ensure_topics(
        bootstrap,
        catalogue,
        namespace=settings.namespace,
        partitions=partitions,
        replication=settings.replication or (1 if settings.embedded else CLUSTER_REPLICATION),
        timeout_s=TOPICS_TIMEOUT_S,
    )
    return Kafka(
        bootstrap,
        {name: counts[settings.topic(name)] for name in catalogue.names},
        catalogue.max_message_bytes,
    )
