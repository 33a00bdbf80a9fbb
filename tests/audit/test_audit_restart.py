"""An auditor outlives its broker: it fails while that is away, and goes on once it is back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka.cimpl import NewTopic

from agents.audit.books import TopicPartition
from agents.audit.reader import AuditError, AuditTarget, Reader
from tests.faults.own_broker import own_broker
from tests.system.harness import wait_for
from tests.system.topics import make_topics

pytestmark = pytest.mark.faults

TOPIC = "log-events"
STARTS = {(TOPIC, 0): 0, (TOPIC, 1): 0}


def test_offsets_are_told_again_once_the_broker_was_started_anew(tmp_path: Path) -> None:
    with own_broker(tmp_path) as broker:
        make_topics(broker.bootstrap, NewTopic(TOPIC, 2, 1))
        target = AuditTarget(broker.bootstrap, "group", lambda name: name, {TOPIC: 2}, 1 << 20)
        reader = Reader(target, 1.0, lambda: False)

        def answer() -> Mapping[TopicPartition, int] | None:
            try:
                return reader.log_starts([TOPIC])
            except AuditError:
                return None

        assert answer() == STARTS
        broker.kill()
        assert answer() is None
        broker.start()
        assert wait_for("offsets", answer) == STARTS
        reader.close()
