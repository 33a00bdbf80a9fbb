"""Drills of what arrives: garbage, and transactions of others that never commit."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck

from agents.topics import APPLICATION_LOGS, LATE_EVENTS, LOG_EVENTS
from tests.faults.fleet import fleet
from tests.faults.garbage import READ_TOPICS, GarbageFeeder, garbage
from tests.faults.load import START_MS, CommittedCount
from tests.faults.reference import DrillReference
from tests.faults.run import Outcome
from tests.faults.verify import await_windows, check_ledger, check_windows, dead_coordinates
from tests.system.harness import Cluster, Feeder, events, read_topic, wait_for

CHUNK = 60
RATE = 200
"""Event time per event is so slow, and the events so few, that none can be late."""


def _chunks(seed: int, count: int) -> Iterator[list[dict[str, Any]]]:
    made = events(seed, CHUNK * count, keys=20, start_ms=START_MS + 40_000, rate=RATE)
    return iter(lambda: list(itertools.islice(made, CHUNK)), [])


def _await_count(counter: CommittedCount, wanted: int) -> None:
    wait_for(f"{wanted} events committed", lambda: counter.poll() >= wanted or None)


def garbage_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Every kind of garbage into every topic that is read, between valid events."""
    outcome, began = Outcome("garbage", seed), time.monotonic()
    draw = random.Random(seed)
    with fleet(bootstrap, home, names=("a",)) as workers:
        cluster, (worker,) = workers.cluster, workers.members
        kinds = [(odd, topic) for odd in garbage(seed) for topic in READ_TOPICS]
        draw.shuffle(kinds)
        reference, feeder, dirt = DrillReference(), Feeder(cluster), GarbageFeeder(cluster)
        counter = CommittedCount(cluster)
        try:
            for (odd, topic), chunk in zip(kinds, _chunks(seed, len(kinds)), strict=True):
                feeder.send(chunk, reference, draw.choice((APPLICATION_LOGS, LOG_EVENTS)))
                dirt.send(odd, topic, draw.randrange(cluster.partitions))
                feeder.flush()
                assert worker.worker.process.poll() is None, f"{odd.name} on {topic} ended it"
            outcome.faults.append(f"{len(kinds)} garbage records")
            _await_count(counter, CHUNK * len(kinds))
            await_windows(cluster, CHUNK * len(kinds))
            wait_for("all garbage is dead-lettered", partial(_all_dead, cluster, dirt))
        finally:
            counter.close()
        assert workers.stop() == [0]
        check_windows(cluster, reference, CHUNK * len(kinds))
        check_ledger(cluster)
        dead = dead_coordinates(cluster)
        wrong = {dirt.names.get(at, "a valid event"): n for at, n in (dead - dirt.written).items()}
        assert dead == dirt.written, f"dead letters that should not be: {wrong}"
        assert not read_topic(cluster, LATE_EVENTS)
    outcome.seconds = time.monotonic() - began
    return outcome


def _all_dead(cluster: Cluster, dirt: GarbageFeeder) -> bool | None:
    return dead_coordinates(cluster).keys() >= dirt.written.keys() or None


def foreign_transactions_drill(bootstrap: str, home: Path, seed: int) -> Outcome:
    """Foreign producers abort, commit, or die within a transaction: what is committed counts."""
    outcome, began = Outcome("foreign transactions", seed), time.monotonic()
    draw = random.Random(seed)
    fates = [*("abort", "commit") * 10, "die"]
    draw.shuffle(fates)
    with fleet(bootstrap, home, names=("a",)) as workers:
        cluster = workers.cluster
        reference, feeder, counter = DrillReference(), Feeder(cluster), CommittedCount(cluster)
        producer, dying = transactional(cluster, "one"), transactional(cluster, "two")
        counted = 0
        try:
            for number, chunk in enumerate(_chunks(seed, 2 * len(fates))):
                fate = fates[number // 2]
                if number % 2 == 0 or fate == "commit":
                    counted += len(chunk)
                if number % 2 == 0:
                    feeder.send(chunk, reference)
                    feeder.flush()
                    continue
                in_transaction(dying if fate == "die" else producer, cluster, chunk, fate)
                if fate == "commit":
                    for event in chunk:
                        reference.add(event)
                outcome.faults.append(fate)
            _await_count(counter, counted)
            await_windows(cluster, counted)
        finally:
            counter.close()
        assert workers.stop() == [0]
        check_windows(cluster, reference, counted)
        check_ledger(cluster)
        assert not dead_coordinates(cluster)
        written, seen = (read_topic(cluster, LOG_EVENTS, committed=c) for c in (False, True))
        assert len(seen) == counted
        assert len(written) == CHUNK * 2 * len(fates), "what was aborted is not in the log"
    outcome.seconds = time.monotonic() - began
    return outcome


def transactional(cluster: Cluster, name: str) -> ck.Producer:
    """A registered producer of transactions that no worker takes part in."""
    producer = ck.Producer(
        {
            "bootstrap.servers": cluster.bootstrap,
            "transactional.id": f"{cluster.namespace}-foreign-{name}",
            # What the dying one leaves open holds every reader back for so long.
            "transaction.timeout.ms": 3_000,
        }
    )
    producer.init_transactions(60)
    return producer


def in_transaction(
    producer: ck.Producer,
    cluster: Cluster,
    chunk: list[dict[str, Any]],
    fate: str = "commit",
    topic: str = LOG_EVENTS,
) -> None:
    """Produce all of it in one transaction, and end that (abort, commit) or leave it (die)."""
    producer.begin_transaction()
    for event in chunk:
        value = json.dumps(event).encode()
        producer.produce(cluster.topic(topic), value, event["service"].encode())
    assert producer.flush(60) == 0
    if fate == "abort":
        producer.abort_transaction(60)
    elif fate == "commit":
        producer.commit_transaction(60)
