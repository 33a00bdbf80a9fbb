"""Questions to real Parquet files through real DuckDB."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables.history.datasets import ENTITIES, SESSIONS, WINDOWS, ColdWindow, NotARowError
from tables.history.duck import open_duck
from tables.history.names import HistoryFile, Source
from tables.history.query import Asked, concerns, rows_of
from tables.history.ranges import cover
from tables.history.reader import ROWS_MAX, History, HistoryError, HistoryTimeoutError
from tables.history.span import COLD, HOT, span
from tests.history.rows import (
    DAY_0,
    MINUTE,
    NAME,
    SOURCE,
    archive,
    entity_event,
    folder,
    session,
    window,
)

FOREVER = (0, 1 << 53)


def starts(history: History, key: str = "/a", span_ms: tuple[int, int] = FOREVER) -> list[int]:
    return [(row.start - DAY_0) // MINUTE for row in history.windows(NAME, key, *span_ms)]


def minute(at: int) -> int:
    return DAY_0 + at * MINUTE


# -- windows -------------------------------------------------------------------------------


def test_a_window_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", DAY_0), window("/b", DAY_0)])
    assert History(tmp_path, "").windows(NAME, "/a", *FOREVER) == [
        ColdWindow(
            DAY_0,
            DAY_0 + MINUTE,
            1,
            10,
            1,
            12.5,
            1.25,
            0.5,
            3.0,
            1.0,
            2.0,
            3.0,
            0.7,
            4,
            0,
            {"404": 3},
        )
    ]


def test_a_window_without_values_has_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(("sum", "avg", "min", "max", "p50", "p95", "p99", "stddev", "distinct"))
    archive(tmp_path, WINDOWS, [window("/a", DAY_0, codes=None, **empty)])
    (row,) = History(tmp_path, "").windows(NAME, "/a", *FOREVER)
    assert (row.sum, row.p99, row.distinct, row.codes) == (None, None, None, None)


figures = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(figures, st.integers(0, (1 << 63) - 1)), min_size=1, max_size=5))
def test_numbers_are_told_to_the_last_digit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[tuple[float, int]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("numbers")
    names = ("sum", "avg", "min", "max", "p50", "p95", "p99", "stddev")
    rows = [
        window("/a", minute(at), **dict.fromkeys(names, figure), count=count)
        for at, (figure, count) in enumerate(numbers)
    ]
    archive(tmp_path, WINDOWS, rows)
    history = History(tmp_path, "")
    found = history.windows(NAME, "/a", *FOREVER)
    history.close()
    for name in names:
        assert [getattr(row, name) for row in found] == [figure for figure, _ in numbers]
    assert [row.count for row in found] == [count for _, count in numbers]


def test_an_answer_can_be_read_whatever_a_file_says(tmp_path: Path) -> None:
    """Of a file that something else wrote: its rows have the right columns, and that is all."""
    file = archive(tmp_path, WINDOWS, [window("/a", DAY_0)])
    path = folder(tmp_path, WINDOWS).file(file)
    table = pq.read_table(path)
    wrong = {"avg": float("nan"), "max": float("inf"), "codes": '{"404":'}
    for name, value in wrong.items():
        at, kind = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(at, kind, pa.array([value], kind.type))
    pq.write_table(table, path)
    (row,) = History(tmp_path, "").windows(NAME, "/a", *FOREVER)
    assert (row.avg, row.max, row.codes, row.sum) == (None, None, None, 12.5)


def test_the_latest_revision_of_a_window_is_told(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", DAY_0, 1), window("/a", DAY_0, 3)])
    archive(tmp_path, WINDOWS, [window("/a", DAY_0, 2), window("/a", DAY_0, 3)], first=2)
    (row,) = History(tmp_path, "").windows(NAME, "/a", *FOREVER)
    assert (row.revision, row.count) == (3, 30)


def test_a_range_is_half_open_and_a_limit_keeps_the_newest(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", minute(at)) for at in range(10)])
    history = History(tmp_path, "")
    assert starts(history, span_ms=(minute(2), minute(5))) == [2, 3, 4]
    found = history.windows(NAME, "/a", minute(0), minute(9), limit=3)
    assert [(row.start - DAY_0) // MINUTE for row in found] == [6, 7, 8]


@pytest.mark.parametrize("limit", [0, -1, ROWS_MAX + 1])
def test_an_answer_is_bounded(tmp_path: Path, limit: int) -> None:
    with pytest.raises(HistoryError, match="limit must be from 1 to 50000"):
        History(tmp_path, "").windows(NAME, "/a", *FOREVER, limit=limit)


def test_a_history_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert History(tmp_path / "none", "").windows(NAME, "/a", *FOREVER) == []


def test_namespaces_share_nothing(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", DAY_0)])
    assert History(tmp_path, "other").windows(NAME, "/a", *FOREVER) == []


@pytest.mark.parametrize(
    "hostile",
    ["' OR 1=1 --", '"; DROP TABLE found; --', "?", "*", "%", "\0", "", "ü" * 2_000, "/a\n"],
)
def test_what_a_user_writes_is_never_sql(tmp_path: Path, hostile: str) -> None:
    archive(tmp_path, WINDOWS, [window("/a", DAY_0), window(hostile, DAY_0)])
    history = History(tmp_path, "")
    assert len(history.windows(NAME, hostile, *FOREVER)) == 1
    assert history.windows(hostile, "/a", *FOREVER) == []


def test_a_folder_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    history = tmp_path / "we[ir]d * 'quoted' ?"
    archive(history, WINDOWS, [window("/a", DAY_0)])
    assert starts(History(history, "")) == [0]


def test_only_files_that_may_hold_the_answer_are_asked() -> None:
    def file(partition: int, of: int | None) -> HistoryFile:
        return HistoryFile(Source("0badcafe", partition), 0, 9, 100, 200, "2026-11-21", of)

    def asked(from_ms: int, to_ms: int, key: bytes | None = None) -> Asked:
        return Asked(WINDOWS, from_ms, to_ms, ("start",), {}, key)

    assert concerns(asked(200, 201), file(0, None))
    assert not concerns(asked(201, 300), file(0, None))
    assert concerns(asked(0, 101), file(0, None))
    assert not concerns(asked(0, 100), file(0, None))
    by_partition = [concerns(asked(0, 999, b"some/key"), file(at, 12)) for at in range(12)]
    assert by_partition.count(True) == 1
    assert concerns(asked(0, 999, b"some/key"), file(0, None))


def test_rows_of_overlapping_files_are_read_once(tmp_path: Path) -> None:
    records = [window("/a", minute(at)) for at in range(30)]
    owner = archive(tmp_path, WINDOWS, records[:20])
    zombie = archive(tmp_path, WINDOWS, records[10:], first=10)
    inner = archive(tmp_path, WINDOWS, records[3:6], first=3)
    where = folder(tmp_path, WINDOWS)
    with open_duck(tmp_path, threads=1) as duck:
        sql, parameters = rows_of(cover([owner, zombie, inner]), where.scan(duck))
        rows = duck.execute(sql, parameters).fetchall()
    assert sorted(row[0] for row in rows) == list(range(30))


# -- sessions ------------------------------------------------------------------------------


def test_a_session_is_told_in_its_latest_revision(tmp_path: Path) -> None:
    archive(tmp_path, SESSIONS, [session("s1", 1_000, 2_000)])
    archive(tmp_path, SESSIONS, [session("s1", 1_000, 5_000, revision=2, pages=7)], first=1)
    (row,) = History(tmp_path, "").sessions("web", "ann", *FOREVER)
    assert (row.end, row.revision, row.pages, row.steps) == (5_000, 2, 7, ["view", "cart"])


def test_a_superseded_session_is_gone_even_where_the_range_shows_only_it(tmp_path: Path) -> None:
    archive(tmp_path, SESSIONS, [session("s1", 1_000, 2_000), session("s2", 6_000, 7_000)])
    archive(tmp_path, SESSIONS, [session("s0", 500, 7_000, supersedes=["s1", "s2"])], first=2)
    history = History(tmp_path, "")
    assert [row.id for row in history.sessions("web", "ann", *FOREVER)] == ["s0"]
    assert history.sessions("web", "ann", 5_000, 8_000) == []
    assert history.sessions("web", "ann", 900, 1_500) == []


def test_sessions_of_one_user_or_of_all(tmp_path: Path) -> None:
    archive(tmp_path, SESSIONS, [session("s1", 1, 2), session("s2", 3, 4, user="bob")])
    archive(tmp_path, SESSIONS, [session("s3", 3, 4, type="app")], first=2)
    history = History(tmp_path, "")
    assert [row.id for row in history.sessions("web", "bob", *FOREVER)] == ["s2"]
    assert [row.id for row in history.sessions("web", None, *FOREVER)] == ["s1", "s2"]


# -- entities ------------------------------------------------------------------------------


def test_an_event_sent_twice_is_told_once_and_two_writers_of_a_version_both(tmp_path: Path) -> None:
    sent = [
        entity_event("d1", 1, 1_000),
        entity_event("d1", 2, 2_000),
        entity_event("d1", 1, 1_000),
        entity_event("d1", 2, 2_000, event_id="other"),
        entity_event("d2", 1, 1_000),
    ]
    archive(tmp_path, ENTITIES, sent)
    rows = History(tmp_path, "").entities("device", "d1", *FOREVER)
    assert [(row.offset, row.version, row.event_id) for row in rows] == [
        (0, 1, "e-d1-1"),
        (1, 2, "e-d1-2"),
        (3, 2, "other"),
    ]
    assert json.loads(bytes(rows[0].attributes)) == {"version": 1}


def test_an_event_without_time_has_that_of_its_arrival(tmp_path: Path) -> None:
    key, _ = entity_event("d1", 1, 0)
    archive(tmp_path, ENTITIES, [(key, b'{"op": "register", "version": 1}')])
    (row,) = History(tmp_path, "").entities("device", "d1", *FOREVER)
    assert (row.timestamp, row.ingest_ts, row.event_id) == (DAY_0, DAY_0, None)


# -- records that are no rows ----------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"garbage",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"id": "\\ud800"}',
        b"[" * 5_000,
        window("/a", -1)[1],
        window("/a", 1 << 54)[1],
        window("/a", 0, count=1 << 70)[1],
        window("/a", 0, revision="1")[1],
        window("/a", 0, codes={"404": "3"})[1],
        window("/a", 5, end=5)[1],
        window("/a", 0, sum="1e999")[1].replace(b'"1e999"', b"1e999"),
        window("/a", 0, sum="NaN")[1].replace(b'"NaN"', b"NaN"),
    ],
)
def test_garbage_is_no_window(value: bytes | None) -> None:
    with pytest.raises(NotARowError):
        WINDOWS.take(b"k", value, 0)


@pytest.mark.parametrize("key", [None, b"", b"device", b"device:", b":d1", b"\xff:d1"])
def test_an_entity_event_needs_its_key(key: bytes | None) -> None:
    with pytest.raises(NotARowError):
        ENTITIES.take(key, entity_event("d1", 1, 1)[1], 0)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_row_or_no_row_and_never_an_error(value: bytes) -> None:
    for dataset in (WINDOWS, SESSIONS, ENTITIES):
        with pytest.raises(NotARowError):
            dataset.take(b"device:d1", value, 0)


# -- files that cannot be read -----------------------------------------------------------------


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 3] = bytes(len(content) // 3 - 4)
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.write_bytes(b"start,end\n1,2\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_dataset(path: Path) -> None:
    made = archive(path.parent.parent.parent / "elsewhere", SESSIONS, [session("s1", 1, 2)])
    path.write_bytes(
        folder(path.parent.parent.parent / "elsewhere", SESSIONS).file(made).read_bytes()
    )


@pytest.mark.parametrize("spoil", [torn, corrupt, foreign, empty, other_dataset])
def test_a_spoilt_file_is_left_out_with_a_warning_and_the_rest_told(
    tmp_path: Path, spoil: object, caplog: pytest.LogCaptureFixture
) -> None:
    archive(tmp_path, WINDOWS, [window("/a", minute(0))])
    bad = archive(tmp_path, WINDOWS, [window("/a", minute(at)) for at in range(1, 99)], first=1)
    archive(tmp_path, WINDOWS, [window("/a", minute(100))], first=99)
    path = folder(tmp_path, WINDOWS).file(bad)
    spoil(path)  # type: ignore[operator]
    history = History(tmp_path, "")
    with caplog.at_level(logging.WARNING):
        assert starts(history) == [0, 100]
        assert starts(history) == [0, 100]
    assert [bad.name in line for line in caplog.messages] == [True]


def test_what_a_spoilt_merged_file_replaced_is_read_again(tmp_path: Path) -> None:
    old = archive(tmp_path, WINDOWS, [window("/a", minute(0))])
    wide = archive(tmp_path, WINDOWS, [window("/a", minute(at)) for at in range(2)])
    torn(folder(tmp_path, WINDOWS).file(wide))
    assert old.path != wide.path
    assert starts(History(tmp_path, "")) == [0]


def test_a_file_put_in_place_of_a_spoilt_one_is_read(tmp_path: Path) -> None:
    made = archive(tmp_path, WINDOWS, [window("/a", minute(0))])
    path = folder(tmp_path, WINDOWS).file(made)
    whole = path.read_bytes()
    torn(path)
    history = History(tmp_path, "")
    assert starts(history) == []
    path.write_bytes(whole)
    assert starts(history) == [0]


def test_unfinished_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    made = archive(tmp_path, WINDOWS, [window("/a", minute(0))])
    day = folder(tmp_path, WINDOWS).file(made).parent
    for name in (".tmp-123", f"{made.name}.bad", "notes.txt", "x.parquet"):
        (day / name).write_bytes(b"PAR1")
    (day.parent / "day=never").mkdir()
    (day.parent / "day=2026-11-22").write_text("a file where a folder should be")
    assert starts(History(tmp_path, "")) == [0]


# -- bounds ----------------------------------------------------------------------------------


def test_a_question_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window(f"/{at}", minute(at)) for at in range(2_000)])
    history = History(tmp_path, "", time_max_s=1e-6)

    def ask_often() -> None:
        for _ in range(1_000):
            history.windows(NAME, "/1", *FOREVER)

    with pytest.raises(HistoryTimeoutError, match="ask for a shorter range"):
        ask_often()


def test_several_threads_may_ask_at_once(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", minute(at)) for at in range(500)])
    history = History(tmp_path, "")
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(starts(history))) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [list(range(500))] * 6


def test_history_is_asked_again_after_it_was_closed(tmp_path: Path) -> None:
    archive(tmp_path, WINDOWS, [window("/a", minute(0))])
    history = History(tmp_path, "")
    assert starts(history) == [0]
    history.close()
    assert starts(history) == [0]
    history.close()


# -- hot and cold ------------------------------------------------------------------------------

rows = st.dictionaries(st.integers(0, 40), st.integers())


@given(rows, rows)
def test_a_span_has_no_gap_and_no_double_and_hot_wins(
    hot: dict[int, int], cold: dict[int, int]
) -> None:
    found = span(hot.items(), cold.items(), lambda row: row[0], lambda row: row[0])
    assert [row[0] for _, row in found] == sorted(hot.keys() | cold.keys())
    for place, (key, value) in found:
        assert (place, value) == ((HOT, hot[key]) if key in hot else (COLD, cold[key]))


revisions = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=20)


@settings(max_examples=25)
@given(revisions, st.integers(1, 19), st.integers(0, 5), st.integers(0, 6))
def test_an_answer_is_the_latest_revisions_however_records_were_spread_over_files(
    tmp_path_factory: pytest.TempPathFactory,
    sent: list[tuple[int, int]],
    cut: int,
    overlap: int,
    to: int,
) -> None:
    history = tmp_path_factory.mktemp("spread")
    records = [window("/a", minute(at), revision) for at, revision in sent]
    cut = min(cut, len(records))
    archive(history, WINDOWS, records[:cut], source=SOURCE)
    first = max(0, cut - overlap)
    if records[first:]:
        archive(history, WINDOWS, records[first:], first=first)
    latest: dict[int, int] = {}
    for at, revision in sent:
        if at < to:
            latest[at] = max(revision, latest.get(at, 0))
    found = History(history, "").windows(NAME, "/a", 0, minute(to))
    assert [((row.start - DAY_0) // MINUTE, row.revision) for row in found] == sorted(
        latest.items()
    )
