"""Row keys: order, prefixes, and what does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.keys import (
    PERIOD_MS,
    START_MAX,
    after_prefix,
    fits,
    key_prefix,
    key_rows,
    parse_row_key,
    parse_timed_key,
    period_of,
    period_rows,
    row_key,
    timed_key,
)

keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
starts = st.integers(0, START_MAX)


@given(keys, starts)
def test_row_keys_round_trip(key: str, start: int):
    assert parse_row_key(row_key(key, start)) == (key, start)


@given(keys, starts, starts)
def test_rows_of_one_key_are_in_order_of_time(key: str, one: int, other: int):
    assert (row_key(key, one) < row_key(key, other)) == (one < other)


near = st.integers(0, 4 * PERIOD_MS) | starts


@given(keys, near, keys, near)
def test_a_period_is_one_range_of_rows(key: str, start: int, other: str, at: int):
    lo, hi = period_rows(start)
    assert lo <= row_key(key, start) < hi
    assert (lo <= row_key(other, at) < hi) == (period_of(at) == period_of(start))


@given(keys, near, keys, near)
def test_rows_of_one_key_lie_together_in_a_period(key: str, start: int, other: str, at: int):
    row, period_ms = row_key(other, at), period_of(start)
    lo, hi = key_rows(key, period_ms, 0, START_MAX + 1)
    mine = key == other and period_of(at) == period_ms
    assert (lo <= row < hi) == mine == row.startswith(lo[:-8])
    if period_of(at) == period_ms:
        after = after_prefix(period_ms, key_prefix(key))
        assert (row < after) == (key_prefix(other) <= key_prefix(key))


@given(keys, near, near, near)
def test_rows_of_a_key_are_bounded_by_time(key: str, start: int, from_ms: int, to_ms: int):
    lo, hi = key_rows(key, period_of(start), from_ms, to_ms)
    assert (lo <= row_key(key, start) < hi) == (from_ms <= start < to_ms)


def test_the_greatest_key_and_start_are_in_their_period():
    key = "\U0010ffff" * 16_383 + "abc"
    lo, hi = period_rows(START_MAX)
    assert lo <= row_key(key, START_MAX) < hi


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


@given(keys, starts)
def test_keys_without_a_period_round_trip(key: str, start: int):
    assert parse_timed_key(timed_key(key, start)) == (key, start)


@pytest.mark.parametrize("raw", [b"", b"\x00\x01a", b"\x00\x05a" + bytes(8), bytes(11)])
def test_other_bytes_are_not_a_row_key(raw: bytes):
    for parse, before in ((parse_row_key, bytes(8)), (parse_timed_key, b""), (parse_row_key, b"")):
        with pytest.raises(ValueError, match="not the row key"):
            parse(before + raw)


def test_a_row_under_another_period_is_none():
    row = row_key("/a", 5 * PERIOD_MS)
    with pytest.raises(ValueError, match="not the row key"):
        parse_row_key(bytes(8) + row[8:])
