"""Creating the catalogue's topics on a cluster and checking those that exist."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.broker.catalogue import Catalogue, load_catalogue
from app.broker.errors import BrokerError, CatalogueError, TopicMismatchError

__all__ = [
    "Catalogue",
    "CatalogueError",
    "TopicMismatchError",
    "ensure_topics",
    "load_catalogue",
    "physical_name",
]


def physical_name(namespace: str, name: str) -> str:
    """Name of a catalogue topic on the cluster; the same as ``Settings.topic``."""
    return f"{namespace}.{name}" if namespace else name


def ensure_topics(
    bootstrap: str,
    catalogue: Catalogue,
    *,
    namespace: str,
    partitions: int | None,
    replication: int,
    timeout_s: float,
) -> dict[str, int]:
    """Create what is missing and answer physical name -> partitions once every topic is served.

    ``bootstrap`` is ``host:port`` joined by commas. ``partitions`` None takes each topic's
    count from the catalogue. Safe when several workers call it at once.
    Raises :class:`TopicMismatchError` before anything is created when an existing topic's
    count differs, and :class:`BrokerError` when the cluster refuses or does not answer.
    """
    wanted = {
        physical_name(namespace, name): partitions or catalogue.partitions(name)
        for name in catalogue.names
    }
    deadline = time.monotonic() + timeout_s
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    missing = _missing(_served(admin, bootstrap, timeout_s), wanted)
    if missing:
        new = [
            NewTopic(
                physical_name(namespace, name),
                num_partitions=wanted[physical_name(namespace, name)],
                replication_factor=replication,
                config=catalogue.config(name, replication=replication),
            )
            for name in catalogue.names
            if physical_name(namespace, name) in missing
        ]
        _create(admin, new, timeout_s)
    while missing:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise BrokerError(
                f"topics {', '.join(sorted(missing))} were created but are not served after "
                f"{timeout_s:.0f} s: check the brokers of {bootstrap}"
            )
        missing = _missing(_served(admin, bootstrap, left_s), wanted)
        if missing:
            time.sleep(0.02)
    return wanted


def _served(admin: AdminClient, bootstrap: str, timeout_s: float) -> dict[str, int]:
    """Partition count of each topic all of whose partitions have a leader."""
    try:
        topics = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as exc:
        raise BrokerError(
            f"Kafka does not answer at {bootstrap} ({_text(exc)}): check that it runs and that "
            f"HEADRACE_BROKER names it"
        ) from exc
    return {
        name: len(topic.partitions)
        for name, topic in topics.items()
        if topic.error is None and all(p.leader >= 0 for p in topic.partitions.values())
    }


def _missing(served: Mapping[str, int], wanted: Mapping[str, int]) -> set[str]:
    for name, wants in wanted.items():
        has = served.get(name, wants)
        if has != wants:
            raise TopicMismatchError(name, has, wants)
    return set(wanted) - set(served)


def _create(admin: AdminClient, topics: list[NewTopic], timeout_s: float) -> None:
    for name, done in admin.create_topics(topics, operation_timeout=timeout_s).items():
        try:
            done.result()
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another worker was quicker; its count is checked by the caller
            raise BrokerError(
                f"topic {name} cannot be created ({_text(exc)}): create it by hand, or check the "
                f"rights of this client and HEADRACE_REPLICATION against the number of brokers"
            ) from exc


def _text(exc: KafkaException) -> str:
    return str(exc.args[0].str())
