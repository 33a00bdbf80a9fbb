"""What makes a month of one key quick to read: whole keys in row groups, columns, few copies."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.history.compaction import compact
from agents.history.files import ROW_GROUP
from agents.history.groups import ENOUGH, row_groups
from tables.history import reader
from tables.history.columns import latest
from tables.history.datasets import WINDOWS, ColdWindow
from tables.history.names import DAY_MS
from tables.history.query import Asked
from tables.history.reader import History
from tests.history.rows import DAY_0, MINUTE, NAME, SOURCE, archive, folder, window

# -- row groups ------------------------------------------------------------------------------

runs = st.lists(st.integers(1, 9_000), min_size=1, max_size=8)


@settings(max_examples=40)
@given(runs, st.integers(500, 5_000))
def test_row_groups_hold_all_rows_in_order_and_divide_no_key_that_fits(
    lengths: list[int], batch_rows: int
) -> None:
    keys = [number for number, length in enumerate(lengths) for _ in range(length)]
    rows = pa.table({"name": ["w"] * len(keys), "key": keys, "at": range(len(keys))})
    groups = list(row_groups(rows.to_batches(batch_rows), ("name", "key")))
    assert pa.concat_tables(groups).equals(rows)
    assert all(0 < group.num_rows <= ROW_GROUP for group in groups)
    held = [list(dict.fromkeys(group["key"].to_pylist())) for group in groups]
    for (one, before), (other, after) in pairwise(zip(groups, held, strict=True)):
        if before[-1] == after[0]:
            assert lengths[after[0]] > ROW_GROUP
        elif one.num_rows < ENOUGH:  # the next key had no room in it
            assert one.num_rows + other["key"].to_pylist().count(after[0]) > ROW_GROUP


def test_each_key_of_a_merged_day_of_minutes_has_its_row_group(tmp_path: Path) -> None:
    for part in range(2):
        rows = [
            window(key, DAY_0 + (part * 720 + at) * MINUTE)
            for at in range(720)
            for key in ("/c", "/a", "/b")
        ]
        archive(tmp_path, WINDOWS, rows, first=part * len(rows))
    where = folder(tmp_path, WINDOWS)
    assert compact(where, WINDOWS, {SOURCE}, DAY_0 + DAY_MS).merged == 1
    whole = max(where.files(), key=lambda file: file.last - file.first)
    with pq.ParquetFile(where.file(whole)) as file:
        groups = [file.read_row_group(at)["key"] for at in range(file.num_row_groups)]
    assert [dict.fromkeys(group.to_pylist()) for group in groups] == [
        {"/a": None},
        {"/b": None},
        {"/c": None},
    ]


# -- columns ---------------------------------------------------------------------------------

sent = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 3)), min_size=1, max_size=40)


@given(sent, st.integers(1, 20))
def test_of_each_window_the_latest_revision_is_told_whatever_their_order(
    rows: list[tuple[int, int]], limit: int
) -> None:
    starts, revisions = zip(*rows, strict=True)
    table = pa.table({"start": starts, "revision": revisions, "offset": range(len(rows))})
    wanted: dict[int, tuple[int, int]] = {}
    for offset, (start, revision) in enumerate(rows):
        wanted[start] = max((revision, offset), wanted.get(start, (0, 0)))
    found = [tuple(row.values()) for row in latest(table, limit).to_pylist()]
    assert found == [(start, *wanted[start]) for start in sorted(wanted)][-limit:]


def test_nothing_found_is_nothing_told() -> None:
    empty = pa.table({name: pa.array([], pa.int64()) for name in ("start", "revision", "offset")})
    assert latest(empty, 5).num_rows == 0


@pytest.mark.slow
@settings(max_examples=25)
@given(sent, st.integers(1, 20), st.integers(1, 60))
def test_windows_are_those_that_sql_chooses(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int]],
    limit: int,
    unsorted_max: int,
) -> None:
    tmp_path = tmp_path_factory.mktemp("chosen")
    records = [window("/a", DAY_0 + at * MINUTE, revision) for at, revision in rows]
    archive(tmp_path, WINDOWS, [*records, window("/b", DAY_0)])
    history = History(tmp_path, "")
    asked = Asked(
        WINDOWS,
        DAY_0,
        DAY_0 + 10 * MINUTE,
        ColdWindow.__struct_fields__,
        {"name": NAME, "key": "/a"},
        None,
        limit,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "UNSORTED_MAX", unsorted_max)
        found = history.windows(NAME, "/a", asked.from_ms, asked.to_ms, limit)
    history.close()
    told = [(row.start, row.revision, row.count, row.codes) for row in found]
    chosen = [dict(zip(asked.columns, row, strict=True)) for row in history.ask(asked)]
    assert told == [(row["start"], row["revision"], row["count"], {"404": 3}) for row in chosen]
