"""Errors of the broker, each one sentence that says what to do.

BrokerError
    DownloadError        an artifact of Apache Kafka cannot be had
    CatalogueError       config/topics.yaml is not valid
    TopicMismatchError   an existing topic has another number of partitions
"""

from __future__ import annotations


class BrokerError(Exception):
    """The broker or its topics cannot be used; the command line prints the text and exits 1."""


class DownloadError(BrokerError):
    """A file of Apache Kafka cannot be downloaded; names the artifact."""


class CatalogueError(BrokerError):
    """The topic catalogue is not valid; names the file, the topic and the field."""


class TopicMismatchError(BrokerError):
    """An existing topic's partition count is not the wanted one."""

    def __init__(self, topic: str, has: int, wants: int) -> None:
        self.topic = topic
        self.has = has
        self.wants = wants
        super().__init__(
            f"topic {topic} has {has} partitions and the configuration wants {wants}: keyed state "
            f"cannot move between counts, so set HEADRACE_PARTITIONS={has} if every topic has "
            f"{has}, or use another HEADRACE_NAMESPACE, or delete the topic to have it recreated "
            f"(its records are lost)"
        )
