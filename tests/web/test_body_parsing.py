"""One object, an array, NDJSON, or a reason why it is none of them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.gateway.parse import BATCH_MAX, BatchTooLongError, MalformedError, parse_body


def test_one_object_is_single_and_an_array_of_one_is_not():
    assert parse_body(b'{"a": 1}', ndjson=False).single
    assert not parse_body(b'[{"a": 1}]', ndjson=False).single


def test_lines_are_recognised_by_their_content():
    parsed = parse_body(b'{"a": 1}\n\n{"a": 2}\r\n', ndjson=False)
    assert parsed.items == [{"a": 1}, {"a": 2}]
    assert not parsed.single


def test_a_declared_single_line_is_a_batch_of_one():
    assert not parse_body(b'{"a": 1}', ndjson=True).single


def test_a_pretty_printed_object_is_one_object():
    assert parse_body(b'{\n  "a": 1\n}\n', ndjson=False).single


@pytest.mark.parametrize(
    ("raw", "index"),
    [
        (b"", 0),
        (b"   \n ", 0),
        (b"{", 0),
        (b'{"source": NaN}', 0),
        (b'[{"a": 1}, {"a": NaN}]', 1),
        (b'[{"a": 1}, {"a": 2}, {"a": Infinity}]', 2),
        (b'[{"a": 1}, {"a": "\xff\xfe"}]', 1),
        (b'[{"a": 1},]', 1),
        (b'[{"a": 1} {"a": 2}]', 0),
        (b'[1, 2, {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", 2),
        (b"[" * 100_000, 0),
        (b'{"a": 1}\n{"a": 2}\n{"a": }\n', 2),
        (b'{"a": 1e999}', 0),
    ],
)
def test_what_is_not_json_names_the_item_it_stops_at(raw: bytes, index: int):
    with pytest.raises(MalformedError) as caught:
        parse_body(raw, ndjson=False)
    assert caught.value.index == index
    assert caught.value.reason


def test_a_million_element_array_is_too_long():
    with pytest.raises(BatchTooLongError):
        parse_body(b"[" + b"0," * 1_000_000 + b"0]", ndjson=False)


@pytest.mark.parametrize("ndjson", [True, False])
def test_a_full_batch_passes_and_one_more_does_not(ndjson: bool):
    line = b'{"a": 1}\n'
    assert len(parse_body(line * BATCH_MAX, ndjson=ndjson).items) == BATCH_MAX
    with pytest.raises(BatchTooLongError):
        parse_body(line * (BATCH_MAX + 1), ndjson=ndjson)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_items_or_a_reason(raw: bytes, ndjson: bool):
    with suppress(MalformedError):
        assert parse_body(raw, ndjson=ndjson).items is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), json_values, max_size=3), min_size=2, max_size=5))
def test_an_array_and_the_same_as_lines_hold_the_same_items(items: list[dict[str, object]]):
    lines = b"\n".join(json.dumps(item).encode() for item in items)
    assert parse_body(json.dumps(items).encode(), ndjson=False).items == items
    assert parse_body(lines, ndjson=True).items == items
    assert parse_body(lines, ndjson=False).items == items
