"""Rows of a key and lists of keys, over periods with and without gaps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.keys import PERIOD_MS, START_MAX, key_prefix, row_key
from tables.windows.stats import WindowStats
from tests.web.fakes import MINUTE, MemoryTable
from web.queries import rows as rows_module
from web.queries.rows import has_key, keys_after, latest_rows, newest_rows, newest_rows_sliced
from web.queries.times import TimeRange

KEYS = ["", "/a", "/b", "/aa", "ü"]
MOMENTS = [
    *range(0, 2 * PERIOD_MS, PERIOD_MS // 3),
    *range(40 * PERIOD_MS - 2 * MINUTE, 43 * PERIOD_MS, PERIOD_MS // 2),
    1 << 62,
    START_MAX,
]
cells = st.sets(st.tuples(st.sampled_from(KEYS), st.sampled_from(MOMENTS)), max_size=30)
bound = st.none() | st.sampled_from(MOMENTS)


def table_of(found: set[tuple[str, int]]) -> MemoryTable:
    table = MemoryTable()
    table.rows = {row_key(key, at): WindowStats(count=at % 1_000 + 1) for key, at in found}
    return table


@given(cells, st.sampled_from(KEYS), bound, bound, st.integers(1, 9))
def test_the_newest_rows_of_a_key_are_found_in_whatever_periods_they_are(
    found: set[tuple[str, int]], key: str, from_ms: int | None, to_ms: int | None, limit: int
):
    table, wanted = table_of(found), TimeRange(from_ms, to_ms)
    starts = sorted(
        at
        for each, at in found
        if each == key and (from_ms or 0) <= at and (to_ms is None or at < to_ms)
    )[-limit:]
    rows = newest_rows(table, key, wanted, limit)
    assert [(at, stats.count) for at, stats in rows] == [(at, at % 1_000 + 1) for at in starts]
    assert asyncio.run(newest_rows_sliced(lambda: table, key, wanted, limit)) == rows
    assert has_key(table, key) == any(each == key for each, _ in found)


@given(cells, st.none() | st.sampled_from([*KEYS, "/zzz"]), st.sampled_from(MOMENTS))
def test_each_key_is_listed_once_in_row_order_with_its_newest_row(
    found: set[tuple[str, int]], after: str | None, since_ms: int
):
    table = table_of(found)

    def listed(least_ms: int) -> list[str]:
        keys = {key for key, at in found if at >= least_ms}
        if after is not None:
            keys = {key for key in keys if key_prefix(key) > key_prefix(after)}
        return sorted(keys, key=key_prefix)

    period_ms = since_ms - since_ms % PERIOD_MS
    assert list(keys_after(lambda: table, after, since_ms)) == listed(period_ms)
    latest = [(row.key, row.start_ms) for row in latest_rows(lambda: table, 0, after)]
    assert latest == [(key, max(at for each, at in found if each == key)) for key in listed(0)]


def test_keys_are_looked_for_in_the_newest_periods_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_module, "PERIODS_MAX", 3)
    table = table_of({(f"/{n}", n * PERIOD_MS) for n in range(9)})
    assert list(keys_after(lambda: table, None)) == ["/6", "/7", "/8"]
    assert has_key(table, "/0")
