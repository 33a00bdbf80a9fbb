"""What clients fetch ahead is bounded, whatever records shrink to on the wire."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.cimpl import NewTopic

from agents.history.target import ArchiveTarget
from agents.history.target import consumer_config as of_archive
from app.engine.changelog import row_record_key
from app.engine.read_ahead import READ_AHEAD
from tests.engine.rig import COUNTS, PATIENCE_S
from tests.system.harness import CHECKOUT
from tests.system.topics import make_topics
from web.entities.statetopic import consumer_config as of_state_topic

PARTITIONS = 8
RECORDS = 300_000
KEYS = 1_000
MEMORY_BYTES_MAX = 50 << 20
"""By the client's defaults it takes 84 MiB, and more where there is more to read."""


def fill(bootstrap: str, changelog: str) -> None:
    """Rows that differ in little, as those of one minute do."""
    producer = ck.Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": "lz4",
            "linger.ms": 50,
            "queue.buffering.max.messages": RECORDS,
        }
    )
    for number in range(RECORDS):
        key = row_record_key(COUNTS.identity, b"/cart/%d" % (number % KEYS))
        producer.produce(changelog, b"%d" % number * 6, key, number % PARTITIONS)
    assert producer.flush(PATIENCE_S * 4) == 0


@pytest.mark.broker
def test_changelogs_take_memory_by_what_is_read_ahead_not_by_what_there_is(
    kafka: str, namespace: str, tmp_path: Path
) -> None:
    changelog = f"{namespace}.source-changelog"
    make_topics(kafka, NewTopic(changelog, PARTITIONS, 1))
    fill(kafka, changelog)
    for kind in ("restore", "standby"):
        command = [sys.executable, "-m", "tests.engine.restore_entry", kind]
        arguments = [kafka, namespace, str(PARTITIONS), str(tmp_path / kind)]
        told = subprocess.run(command + arguments, cwd=CHECKOUT, capture_output=True, check=True)
        assert 0 < int(told.stdout) < MEMORY_BYTES_MAX, kind


@pytest.mark.parametrize(
    "config",
    [
        of_archive(ArchiveTarget("localhost:1", "g", "m", {}, Path("history"), "", 6_000)),
        of_state_topic("localhost:1", "entity-state"),
    ],
    ids=["archive", "entity-state"],
)
def test_archive_and_rebuild_read_no_further_ahead(
    config: dict[str, str | int | float | bool],
) -> None:
    assert READ_AHEAD.items() <= config.items()
    ck.Consumer(config).close()  # the client takes all of them
