"""The entities' agent: outcomes that balance, rows that are bounded, records of the latest."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from random import Random
from uuid import UUID

import pytest

from agents.entities.retention import EntityRetention
from agents.entities.step import EntityStep
from app.engine.batch import RecordBatch
from app.engine.effects import Output
from app.engine.epoch import TaskId
from app.engine.partitioner import partition_for
from tables.entities.event import entity_key
from tests.entities.driving import DEVICE, HOUR, NOW, PARTITIONS, SPECS, TOPIC, Entities, body


def test_a43_1_register_and_three_updates_leave_the_last_state_and_four_changes() -> None:
    entities = Entities()
    for event in [body("register", 1), *(body("update", v) for v in (2, 3, 4))]:
        entities.feed("d-1", [event])
    state = entities.state("d-1")
    assert state is not None
    assert (state.version, json.loads(state.attributes)) == (4, {"firmware": "v4"})
    history = entities.history("d-1")
    assert [(row.op, row.version) for row in history] == [
        ("register", 1),
        ("update", 2),
        ("update", 3),
        ("update", 4),
    ]
    assert [row.offset for row in history] == [0, 1, 2, 3]
    assert entities.published("d-1")[-1] == {
        "state": "active",
        "version": 4,
        "updated_at": NOW,
        "attributes": {"firmware": "v4"},
    }
    assert entities.counts() == (4, 0, 0, 0)


def test_a43_2_a_deregistered_entity_is_a_tombstone_that_nothing_older_brings_back() -> None:
    entities = Entities()
    entities.feed("d-1", [body("register", 1), body("deregister", 3)])
    assert entities.published("d-1") == [None]
    entities.feed("d-1", [body("update", 2)])
    state = entities.state("d-1")
    assert state is not None
    assert state.deregistered
    assert state.attributes == b"{}"
    assert entities.published("d-1") == [None]
    entities.feed("d-1", [body("register", 4)])
    assert [value and value["version"] for value in entities.published("d-1")] == [None, 4]


@pytest.mark.parametrize("apart", [True, False], ids=["in batches of its own", "in one batch"])
def test_a43_4_an_older_version_out_of_order_is_ignored_and_counted(apart: bool) -> None:
    entities = Entities()
    events = [body("register", 1), body("update", 3), body("update", 2)]
    for part in [[each] for each in events] if apart else [events]:
        entities.feed("d-1", part)
    state = entities.state("d-1")
    assert state is not None
    assert state.version == 3
    assert entities.counts() == (2, 0, 1, 0)
    assert [row.applied for row in entities.history("d-1")] == [True, True, False]
    assert entities.published("d-1")[-1]["version"] == 3


def test_of_one_version_the_later_timestamp_wins_and_then_the_greater_id() -> None:
    versions = [
        body("update", 1, 7, attributes={"n": 1}),
        body("update", 1, 8, attributes={"n": 2}),
        body("update", 1, 1, attributes={"n": 3}, timestamp=NOW + 1),
    ]
    for order in itertools.permutations(versions):
        entities = Entities()
        entities.feed("d-1", order)
        state = entities.state("d-1")
        assert state is not None
        assert state.attributes == b'{"n":3}'


def test_an_event_sent_again_is_a_duplicate_without_trace() -> None:
    entities = Entities()
    entities.feed("d-1", [body("register", 1), body("register", 1)])
    entities.feed("d-1", [body("register", 1)])
    assert entities.counts() == (1, 0, 2, 0)
    assert len(entities.history("d-1")) == 1
    assert len(entities.published("d-1")) == 1


def test_an_update_replaces_every_attribute() -> None:
    entities = Entities()
    entities.feed("d-1", [body("register", 1, attributes={"a": 1, "b": 2})])
    entities.feed("d-1", [body("update", 2, attributes={"b": 3})])
    assert entities.published("d-1")[-1]["attributes"] == {"b": 3}


def test_arrival_in_any_order_and_any_batches_ends_in_one_state() -> None:
    events = [body("update" if v % 4 else "deregister", v) for v in range(1, 9)]
    found = set()
    for seed in range(30):
        draw, entities = Random(seed), Entities()
        shuffled = draw.sample(events, len(events))
        while shuffled:
            size = draw.randint(1, len(shuffled))
            entities.feed("d-1", shuffled[:size])
            shuffled = shuffled[size:]
        state = entities.state("d-1")
        assert state is not None
        found.add((state.rank, state.touched_ms, state.sequence))
        assert sum(entities.counts()) == len(events)
    assert len(found) == 1


def test_one_batch_publishes_one_record_per_changed_entity() -> None:
    entities = Entities()
    entities.feed("d-1", [body("update", v) for v in range(1, 50)])
    assert [value["version"] for value in entities.published("d-1")] == [49]


@pytest.mark.parametrize("size", [1, 3, 17], ids="batches of {}".format)
def test_the_newest_events_of_an_entity_are_kept_and_no_more(size: int) -> None:
    entities = Entities()
    entities.feed("other", [body("register", 1)])
    events = [body("update", v) for v in range(1, 18)]
    for start in range(0, len(events), size):
        entities.feed("d-1", events[start : start + size])
        assert len(entities.history("d-1")) <= DEVICE.history_max
    assert [row.version for row in entities.history("d-1")] == [13, 14, 15, 16, 17]
    assert len(entities.history("other")) == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"", b"{}", "key: key is required: type:id"),
        (b"device", b"{}", "must be type:id"),
        (b"device:", b"{}", "is required"),
        (b"device:\xff", b"{}", "must be type:id in UTF-8"),
        (b"device:a\0b", b"{}", "printable"),
        (b"ship:1", b"{}", "no entity type is named 'ship'; configured: device"),
        (b"device:" + b"x" * 201, b"{}", "at most 200 characters"),
        (b"device:1", None, "not valid JSON"),
        (b"device:1", b"[" * 100_000, "not valid JSON"),
        (b"device:1", b"[]", "must be a JSON object"),
        (b"device:1", b"{}", "op is required; version is required"),
    ],
)
def test_a_record_that_is_no_event_is_dead_lettered_with_the_reason(
    key: bytes, value: bytes | None, reason: str
) -> None:
    entities = Entities()
    entities.raw(key, [value])
    assert entities.counts() == (0, 0, 0, 1)
    (dead,) = entities.driver.topics["log-events-dlq"]
    assert reason in dict(dead.headers)["error_message"].decode()
    assert dict(dead.headers)["original_topic"] == b"entity-events"


def test_a_record_in_a_partition_that_is_not_its_keys_is_refused() -> None:
    entities = Entities()
    key = entity_key("device", "d-1")
    elsewhere = (partition_for(key, PARTITIONS) + 1) % PARTITIONS
    value = json.dumps(body("register", 1)).encode()
    entities.driver.feed(TOPIC, [value], partition=elsewhere, keys=[key])
    assert entities.counts() == (0, 0, 0, 1)
    assert entities.state("d-1") is None


def test_one_bad_record_costs_that_record_only() -> None:
    entities = Entities()
    good = [json.dumps(body("update", v)).encode() for v in (1, 2)]
    entities.raw(entity_key("device", "d-1"), [good[0], b"\xff", good[1]])
    assert entities.counts() == (2, 0, 0, 1)


def test_an_event_without_id_or_time_takes_them_from_its_record() -> None:
    first, second = Entities(), Entities()
    for each in (first, second):
        each.feed("d-1", [{"op": "register", "version": 1}])
    (row,) = first.history("d-1")
    assert second.history("d-1") == [row]
    assert UUID(row.event_id).version == 5
    assert row.timestamp == NOW


def test_a_tombstone_goes_after_its_retention_and_a_live_entity_never() -> None:
    entities = Entities()
    entities.feed("gone", [body("deregister", 1)])
    entities.feed("live", [body("register", 1)])
    entities.driver.advance(HOUR)
    assert entities.state("gone") is not None
    entities.driver.advance(1)
    assert entities.state("gone") is None
    entities.driver.advance(100 * HOUR)
    assert entities.state("live") is not None
    assert entities.history("live") == []


def test_a_tombstone_that_was_touched_since_stays_for_its_whole_retention() -> None:
    entities = Entities()
    entities.feed("d-1", [body("deregister", 5)])
    entities.driver.advance(HOUR)
    entities.feed("d-1", [body("update", 4)])
    entities.driver.advance(HOUR)
    assert entities.state("d-1") is not None


def test_a_tombstone_that_an_epoch_under_way_has_brought_back_to_life_stays() -> None:
    entities = Entities()
    entities.feed("d-1", [body("deregister", 1)])
    key = entity_key("device", "d-1")
    partition = partition_for(key, PARTITIONS)
    task = entities.driver.tasks[TaskId(TOPIC, partition)]
    late = NOW + HOUR + 1
    assert EntityRetention(SPECS)(partition, task, late).deletes == {"entities": [key]}
    value = json.dumps(body("register", 2)).encode()
    batch = RecordBatch(TOPIC, partition, [1], [late], [key], [value], [()])
    task.apply(EntityStep(SPECS)(batch, task, late))
    assert EntityRetention(SPECS)(partition, task, late).deletes == {}


def test_an_entity_that_comes_back_after_its_purge_begins_beyond_its_old_history() -> None:
    entities = Entities(replace(DEVICE, tombstone_retention_ms=1_000))
    entities.feed("d-1", [body("register", 1), body("update", 2), body("deregister", 3)])
    entities.driver.advance(1_001)
    assert entities.state("d-1") is None
    entities.feed("d-1", [body("register", 1, 9)])
    assert [(row.op, row.offset) for row in entities.history("d-1")] == [
        ("register", 0),
        ("update", 1),
        ("deregister", 2),
        ("register", 3),
    ]


def test_the_sweep_comes_round_to_every_row_a_slice_at_a_time() -> None:
    entities = Entities()
    key = next(f"d-{n}" for n in range(99) if partition_for(b"device:d-%d" % n, PARTITIONS) == 0)
    for number in range(40):
        if partition_for(entity_key("device", f"d-{number}"), PARTITIONS) == 0:
            entities.feed(f"d-{number}", [body("deregister", 1)])
    task = entities.driver.tasks[TaskId(TOPIC, 0)]
    sweep, removed = EntityRetention(SPECS, rows_per_tick=3), set()
    for _ in range(40):
        effects = sweep(0, task, NOW + HOUR + 1)
        gone = effects.deletes.get("entities", [])
        assert len(gone) <= 3
        removed.update(gone)
    assert entity_key("device", key) in removed
    assert len(removed) == len(list(task.table("entities").range(b"", None, limit=99)))


def test_outputs_are_keyed_so_that_any_client_finds_them() -> None:
    entities = Entities()
    entities.feed("d-1", [body("register", 1)])
    (output,) = entities.driver.topics["entity-state"]
    assert isinstance(output, Output)
    assert (output.key, output.partition) == (b"device:d-1", None)
