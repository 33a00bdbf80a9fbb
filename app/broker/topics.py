"""Creating the catalogue's topics on a cluster and checking those that exist."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from dataclasses import dataclass

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
    cluster = _Cluster(bootstrap, timeout_s)
    missing = set(wanted) - _checked(cluster.topics(), wanted).keys()
    # A topic made a moment ago may not be told of yet: the cluster's word on what exists is
    # what it would not create.
    hidden = cluster.refused(_new_topics(catalogue, namespace, wanted, replication, missing))
    cluster.wait_for(hidden, wanted)
    cluster.create(_new_topics(catalogue, namespace, wanted, replication, missing - hidden))
    cluster.wait_for(set(wanted), wanted)
    return wanted


def _new_topics(
    catalogue: Catalogue,
    namespace: str,
    wanted: Mapping[str, int],
    replication: int,
    chosen: Set[str],
) -> list[NewTopic]:
    names = {physical_name(namespace, name): name for name in catalogue.names}
    return [
        NewTopic(
            topic,
            num_partitions=wanted[topic],
            replication_factor=replication,
            config=catalogue.config(name, replication=replication),
        )
        for topic, name in names.items()
        if topic in chosen
    ]


@dataclass(frozen=True, slots=True)
class _Topic:
    partitions: int
    served: bool
    """Whether each partition has a leader."""


def _checked(there: Mapping[str, _Topic], wanted: Mapping[str, int]) -> Mapping[str, _Topic]:
    """The topics that are wanted and there; raises when one has another count."""
    for name, wants in wanted.items():
        topic = there.get(name)
        if topic is not None and topic.partitions != wants:
            raise TopicMismatchError(name, topic.partitions, wants)
    return {name: topic for name, topic in there.items() if name in wanted}


class _Cluster:
    """What a cluster is asked about topics, all of it within one time."""

    def __init__(self, bootstrap: str, timeout_s: float) -> None:
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def topics(self) -> dict[str, _Topic]:
        """The topics whose partitions are known."""
        # The client takes a time of 0 for no limit.
        left_s = max(0.1, self._deadline - time.monotonic())
        try:
            topics = self._admin.list_topics(timeout=left_s).topics
        except KafkaException as exc:
            raise BrokerError(
                f"Kafka does not answer at {self._bootstrap} ({_text(exc)}): check that it runs "
                f"and that HEADRACE_BROKER names it"
            ) from exc
        return {
            name: _Topic(
                len(topic.partitions),
                topic.error is None and all(p.leader >= 0 for p in topic.partitions.values()),
            )
            for name, topic in topics.items()
            if topic.partitions
        }

    def wait_for(self, names: Set[str], wanted: Mapping[str, int]) -> None:
        """Until these are served; raises when one has another count than is wanted."""
        while unserved := self._unserved(names, wanted):
            if time.monotonic() > self._deadline:
                raise BrokerError(
                    f"topics {', '.join(sorted(unserved))} exist but are not served after "
                    f"{self._timeout_s:.0f} s: check the brokers of {self._bootstrap}"
                )
            time.sleep(0.02)

    def _unserved(self, names: Set[str], wanted: Mapping[str, int]) -> set[str]:
        if not names:
            return set()
        there = _checked(self.topics(), wanted)
        return {name for name in names if name not in there or not there[name].served}

    def refused(self, topics: list[NewTopic]) -> set[str]:
        """Those that the cluster would not create because they exist."""
        return self._create(topics, validate_only=True)

    def create(self, topics: list[NewTopic]) -> None:
        """Create them; one that another worker was quicker to create is as good."""
        self._create(topics, validate_only=False)

    def _create(self, topics: list[NewTopic], *, validate_only: bool) -> set[str]:
        if not topics:
            return set()
        answers = self._admin.create_topics(
            topics, operation_timeout=self._timeout_s, validate_only=validate_only
        )
        existing = set()
        for name, done in answers.items():
            try:
                done.result()
            except KafkaException as exc:
                if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    existing.add(name)
                    continue
                raise BrokerError(
                    f"topic {name} cannot be created ({_text(exc)}): create it by hand, or check "
                    f"the rights of this client and HEADRACE_REPLICATION against the number of "
                    f"brokers"
                ) from exc
        return existing


def _text(exc: KafkaException) -> str:
    return str(exc.args[0].str())
