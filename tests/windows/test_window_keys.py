"""Row keys: order, prefixes, and what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.keys import START_MAX, after_key, fits, key_prefix, parse_row_key, row_key

keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
starts = st.integers(0, START_MAX)


@given(keys, starts)
def test_row_keys_round_trip(key: str, start: int):
    assert parse_row_key(row_key(key, start)) == (key, start)


@given(keys, starts, starts)
def test_rows_of_one_key_are_in_order_of_time(key: str, one: int, other: int):
    assert (row_key(key, one) < row_key(key, other)) == (one < other)


@given(keys, starts, keys, starts)
def test_a_prefix_and_its_end_hold_the_rows_of_one_key_only(
    key: str, start: int, other: str, at: int
):
    row = row_key(other, at)
    inside = key_prefix(key) <= row < after_key(key)
    assert inside == (key == other) == row.startswith(key_prefix(key))
    assert key_prefix(key) <= row_key(key, start) < after_key(key)


@pytest.mark.parametrize("start", [-1, START_MAX + 1])
def test_a_start_outside_its_eight_bytes_is_refused(start: int):
    with pytest.raises(ValueError, match=str(start)):
        row_key("/a", start)


def test_a_key_above_65535_bytes_does_not_fit():
    assert fits("a" * 65_535)
    assert not fits("a" * 65_536)
    assert not fits("ü" * 40_000)
    assert not fits("\ud800")
    with pytest.raises(ValueError, match="65535"):
        key_prefix("a" * 65_536)


@pytest.mark.parametrize("raw", [b"", b"\x00\x01a", b"\x00\x05a" + bytes(8), bytes(11)])
def test_other_bytes_are_not_a_row_key(raw: bytes):
    with pytest.raises(ValueError, match="not the row key"):
        parse_row_key(raw)
