"""State and history as monoids, codecs that round-trip, decisions free of order."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models.rules import RuleError
from tables.entities.event import (
    VERSION_MAX,
    EntityEvent,
    encode_event,
    entity_key,
    parse_key,
    read_event,
)
from tables.entities.history import (
    SEQUENCE_MAX,
    Change,
    Changes,
    history_bounds,
    history_key,
    parse_history_key,
)
from tables.entities.snapshot import digest, snapshot_hash
from tables.entities.state import EntityState, EntityStates, decide, state_value
from tests.entities.driving import DEVICE, NOW, body

few = st.integers(min_value=0, max_value=3)
ids = st.sampled_from(["a", "b"])
blobs = st.sampled_from([b"{}", b'{"a":1}', b'{"b":2}'])
states = st.builds(EntityState, few, few, ids, st.booleans(), blobs, few, few)
ops = st.sampled_from(["register", "update", "deregister"])
changes = st.builds(Change, few, ops, few, few, ids, few, st.booleans(), blobs)
printable = st.text('aZ0:;-/%é€😀"\\', min_size=1, max_size=20)
merge_states, merge_changes = EntityStates().merge, Changes().merge


@given(states, states, states)
def test_states_merge_associatively_commutatively_and_idempotently(
    a: EntityState, b: EntityState, c: EntityState
) -> None:
    assert merge_states(a, b) == merge_states(b, a)
    assert merge_states(merge_states(a, b), c) == merge_states(a, merge_states(b, c))
    assert merge_states(a, a) == a


@given(states, states)
def test_an_older_version_never_overwrites_a_newer(a: EntityState, b: EntityState) -> None:
    merged = merge_states(a, b)
    newest = max((a.version, a.timestamp), (b.version, b.timestamp))
    assert (merged.version, merged.timestamp) == newest


@given(changes, changes, changes)
def test_changes_merge_associatively_commutatively_and_idempotently(
    a: Change, b: Change, c: Change
) -> None:
    assert merge_changes(a, b) == merge_changes(b, a)
    assert merge_changes(merge_changes(a, b), c) == merge_changes(a, merge_changes(b, c))
    assert merge_changes(a, a) == a


@given(states, changes)
def test_both_codecs_round_trip(state: EntityState, change: Change) -> None:
    assert EntityStates().decode(EntityStates().encode(state)) == state
    assert Changes().decode(Changes().encode(change)) == change


@pytest.mark.parametrize("aggregate", [EntityStates(), Changes()])
def test_foreign_bytes_are_an_error(aggregate: Any) -> None:
    for raw in (b"", b"\xc1", b"\x90", msgspec.msgpack.encode({"version": 1})):
        with pytest.raises(msgspec.MsgspecError):
            aggregate.decode(raw)


def test_the_stored_bytes_keep_their_meaning() -> None:
    """Change a table's identity before changing this."""
    state = EntityState(1, 2, "e", True, b"{}", 3, 4)
    change = Change(1, "update", 2, 3, "e", 4, True, b"{}")
    assert EntityStates().encode(state).hex() == "970102a165c3c4027b7d0304"
    assert Changes().encode(change).hex() == "9801a67570646174650203a16504c3c4027b7d"


events = st.builds(
    EntityEvent,
    event_id=ids,
    op=ops,
    version=st.integers(min_value=1, max_value=4),
    timestamp=few,
    attributes=st.just({}),
)


@given(st.lists(events, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_state_decided_does_not_depend_on_the_order_of_arrival(
    arrived: list[EntityEvent], draw: Any
) -> None:
    def fold(order: list[EntityEvent]) -> EntityState:
        first = decide(None, order[0], 0, NOW).state
        return reduce(
            lambda held, each: decide(held, each[1], each[0], NOW).state,
            enumerate(order[1:], 1),
            first,
        )

    shuffled = draw.sample(arrived, len(arrived))
    assert fold(shuffled).rank == fold(arrived).rank


@given(st.sampled_from(["device", "a-b_9"]), printable)
def test_a_key_names_its_entity(type_: str, entity_id: str) -> None:
    assert parse_key(entity_key(type_, entity_id)) == (type_, entity_id)


@given(printable, printable, st.integers(0, SEQUENCE_MAX), st.integers(0, SEQUENCE_MAX))
def test_history_rows_of_an_entity_lie_together_in_order(
    one: str, other: str, first: int, second: int
) -> None:
    key, foreign = entity_key("device", one), entity_key("device", other)
    assert (history_key(key, first) < history_key(key, second)) == (first < second)
    assert parse_history_key(history_key(key, first)) == (key, first)
    lo, hi = history_bounds(key, None)
    assert lo <= history_key(key, first) < hi
    assert (lo <= history_key(foreign, second) < hi) == (key == foreign)
    assert (history_key(key, first) < history_bounds(key, second)[1]) == (first < second)


@pytest.mark.parametrize("raw", [b"", b"device:1", b"device:1\1" + b"\0" * 8])
def test_what_is_no_history_row_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not the row key"):
        parse_history_key(raw)


@given(st.dictionaries(st.binary(max_size=9), st.binary(max_size=9), max_size=9))
def test_the_snapshot_hash_depends_on_the_rows_and_not_on_their_order(
    rows: dict[bytes, bytes],
) -> None:
    digests = [digest(key, value) for key, value in rows.items()]
    assert snapshot_hash(digests) == snapshot_hash(reversed(digests))
    assert snapshot_hash([*digests, digest(b"one more", b"")]) != snapshot_hash(digests)


def test_a_digest_tells_keys_and_values_apart() -> None:
    rows = [(b"a", b"1"), (b"a", b"2"), (b"b", b"1"), (b"", b"a1"), (b"a1", b"")]
    assert len({digest(key, value) for key, value in rows}) == len(rows)


def test_the_published_value_of_equal_states_has_equal_bytes() -> None:
    one = decide(None, read({"a": 1, "b": 2}), 0, NOW).state
    two = decide(None, read({"b": 2, "a": 1}), 5, NOW + 9).state
    assert state_value(one) == state_value(two)


def read(attributes: dict[str, Any]) -> EntityEvent:
    event = read_event(body("register", 1, attributes=attributes), DEVICE, NOW, lambda: "")
    assert isinstance(event, EntityEvent)
    return event


@given(
    st.dictionaries(
        printable,
        st.text() | st.integers(-(1 << 63), (1 << 63) - 1) | st.booleans() | st.none()
        | st.floats(allow_nan=False, allow_infinity=False),
        max_size=4,
    )
)  # fmt: skip
def test_an_event_as_it_travels_reads_as_it_was(attributes: dict[str, Any]) -> None:
    event = read_event(
        {"op": "update", "version": 1, "attributes": attributes}, DEVICE, NOW, lambda: ""
    )
    if isinstance(event, list):
        assert "bytes as JSON" in event[0].reason
        return
    again = json.loads(encode_event(event))
    again["event_id"] = "00000000-0000-0000-0000-000000000001"
    second = read_event(again, DEVICE, NOW, lambda: "")
    assert isinstance(second, EntityEvent)
    assert second.attributes == event.attributes


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"op": None}, ["op is required"]),
        ({"op": "delete"}, ["op must be one of register, update, deregister"]),
        ({"op": ["register"]}, ["op must be one of"]),
        ({"version": None}, ["version is required"]),
        *(
            ({"version": wrong}, ["version must be a whole number from 1 to 9007199254740991"])
            for wrong in (0, -1, 1.0, "1", True, VERSION_MAX + 1)
        ),
        ({"timestamp": NOW + 300_001}, ["timestamp must not be more than 5 minutes"]),
        ({"timestamp": "yesterday"}, ["timestamp must be RFC 3339"]),
        ({"event_id": "1"}, ["event_id must be a UUID"]),
        ({"event_id": 1}, ["event_id must be a UUID"]),
        ({"attributes": []}, ["attributes must be a flat object"]),
        ({"attributes": {"a": {}}}, ["attributes 'a' must be a string, a number"]),
        ({"attributes": {"a": 1 << 63}}, ["attributes 'a' must be a whole number of 64 bits"]),
        ({"attributes": {"": 1}}, ["attributes names must have 1 to 128"]),
        ({"attributes": {"a\n": 1}}, ["attributes names must have 1 to 128"]),
        ({"attributes": {str(n): 1 for n in range(5)}}, ["attributes must have at most 4 entries"]),
        ({"attributes": {"a": "x" * 400}}, ["attributes must take at most 400 bytes"]),
        ({"op": "deregister"}, ["attributes must not be given"]),
        (
            {"op": "x", "version": 0, "timestamp": -1, "event_id": "", "attributes": 1},
            ["event_id must", "op must", "version must", "timestamp must", "attributes must"],
        ),
    ],
)
def test_every_bad_field_is_named(fields: dict[str, Any], named: list[str]) -> None:
    errors = read_event(body("register", 1) | fields, DEVICE, NOW, lambda: "")
    assert isinstance(errors, list)
    assert len(errors) == len(named)
    for error, start in zip(errors, named, strict=True):
        assert f"{error.field} {error.reason}".startswith(start)


@pytest.mark.parametrize("raw", [None, [], 1, "x"])
def test_what_is_no_object_is_refused(raw: Any) -> None:
    errors = read_event(raw, DEVICE, NOW, lambda: "")
    assert isinstance(errors, list)
    assert errors[0].reason == "an entity event must be a JSON object"


def test_names_of_other_schemas_and_unknown_fields_are_read() -> None:
    raw = {"op": "update", "version": 2, "eventId": "A" * 32, "ts": NOW, "other": {}, "ops": 1}
    event = read_event(raw, DEVICE, NOW, lambda: "")
    assert isinstance(event, EntityEvent)
    assert event.event_id == "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
    assert (event.timestamp, event.attributes) == (NOW, {})


@pytest.mark.parametrize("key", [b"", b"device", b":1", b"device: ", b"device:\xff", b"d:a\0"])
def test_what_names_no_entity_is_refused(key: bytes) -> None:
    with pytest.raises(RuleError):
        parse_key(key)
