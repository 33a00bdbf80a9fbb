"""Files are whole or absent, merging shows the old or the new, and a plan misses nothing."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.history.compaction import KEPT_MS, compact
from agents.history.files import write_file, write_rows
from agents.history.progress import Plan, Progress, plan
from tables.history import folder as writing
from tables.history.datasets import DATASETS, WINDOWS
from tables.history.duck import open_duck
from tables.history.folder import publish
from tables.history.names import DAY_MS, HistoryFile
from tables.history.query import rows_of
from tables.history.ranges import Gap, cover
from tables.history.reader import History
from tests.history.rows import (
    DAY_0,
    MINUTE,
    NAME,
    SOURCE,
    archive,
    entity_event,
    folder,
    pending,
    session,
    window,
)

NEXT_DAY = DAY_0 + DAY_MS


def records(count: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [window("/a", DAY_0 + at * MINUTE) for at in range(first, first + count)]


def read(history: Path) -> list[int]:
    """Offsets as a reader sees them, doubles included."""
    where = folder(history, WINDOWS)
    pieces = cover(where.files())
    if not pieces:
        return []
    with open_duck(history, threads=1) as duck:
        sql, parameters = rows_of(pieces, where.scan(duck))
        return sorted(row[0] for row in duck.execute(sql, parameters).fetchall())


def touch(path: Path, now_ms: int) -> None:
    os.utime(path, (now_ms / 1000, now_ms / 1000))


# -- writing -----------------------------------------------------------------------------------


def staged(history: Path, count: int) -> tuple[Path, Path]:
    """A file before it gets its name, and that name."""
    held = pending(WINDOWS, records(count))
    file = held.file(1)
    where = folder(history, WINDOWS)
    made: list[Path] = []
    original = writing.publish
    writing.publish = lambda temporary, _final: made.append(temporary)
    try:
        write_rows(where, file, WINDOWS, held.rows)
    finally:
        writing.publish = original
    return made[0], where.file(file)


def test_a_crash_before_the_rename_leaves_nothing_to_read(tmp_path: Path) -> None:
    temporary, final = staged(tmp_path, 5)
    assert temporary.exists()
    assert not final.exists()
    assert read(tmp_path) == []
    assert plan(folder(tmp_path, WINDOWS).files(), None, 0).gaps == (Gap(0, None),)


def test_a_crash_after_the_rename_leaves_all_of_it_once(tmp_path: Path) -> None:
    temporary, final = staged(tmp_path, 5)
    os.link(temporary, final)
    assert read(tmp_path) == [0, 1, 2, 3, 4]
    assert plan(folder(tmp_path, WINDOWS).files(), 0, 0).gaps == (Gap(5, None),)


def test_a_replay_writes_the_same_name_and_changes_nothing(tmp_path: Path) -> None:
    made = archive(tmp_path, WINDOWS, records(5))
    path = folder(tmp_path, WINDOWS).file(made)
    before = path.stat()
    assert archive(tmp_path, WINDOWS, records(5)) == made
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read(tmp_path) == [0, 1, 2, 3, 4]
    assert [path.name for path in path.parent.iterdir()] == [made.name]


def test_whoever_publishes_second_leaves_the_first_in_place(tmp_path: Path) -> None:
    (tmp_path / "temporary").write_bytes(b"second")
    (tmp_path / "final").write_bytes(b"first")
    publish(tmp_path / "temporary", tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"first"
    assert not (tmp_path / "temporary").exists()


def test_a_write_that_fails_leaves_no_file_behind(tmp_path: Path) -> None:
    held = pending(WINDOWS, records(1))
    where = folder(tmp_path, WINDOWS)

    def full(_writer: pq.ParquetWriter) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_file(where, held.file(1), WINDOWS, full)
    assert [path for path in where.path.rglob("*") if path.is_file()] == []


def test_only_abandoned_half_files_are_swept(tmp_path: Path) -> None:
    made = archive(tmp_path, WINDOWS, records(1))
    where = folder(tmp_path, WINDOWS)
    day = where.file(made).parent
    for name, age_ms in ((".tmp-old", 3_601_000), (".tmp-new", 3_000_000)):
        (day / name).write_bytes(b"half")
        touch(day / name, NEXT_DAY - age_ms)
    touch(where.file(made), 0)
    assert where.sweep(NEXT_DAY) == 1
    assert sorted(path.name for path in day.iterdir()) == [".tmp-new", made.name]


def test_a_file_holds_one_day_and_says_whether_its_keys_are_in_their_place() -> None:
    held = pending(WINDOWS, records(2))
    assert held.file(12).partitions is None
    assert held.fits(DAY_0 + DAY_MS - 1)
    assert not held.fits(NEXT_DAY)
    held.written()
    assert held.fits(NEXT_DAY)
    held.add(2, WINDOWS.take(*records(1)[0], NEXT_DAY), NEXT_DAY, 1, True, 0.0)
    made = held.file(12)
    assert (made.first, made.last, made.day, made.partitions) == (2, 2, "2026-11-22", 12)


# -- what to read ------------------------------------------------------------------------------


def file(first: int, last: int) -> HistoryFile:
    return HistoryFile(SOURCE, first, last, 0, 0, "2026-11-21")


def test_an_archiver_goes_on_after_what_files_hold_and_fills_what_they_miss() -> None:
    assert plan([], None, 0) == Plan((Gap(0, None),), 0)
    assert plan([], None, 70) == Plan((Gap(70, None),), 0)
    assert plan([file(0, 9)], 0, 0) == Plan((Gap(10, None),), 0)
    assert plan([file(0, 9), file(20, 29)], 0, 0) == Plan((Gap(10, 20), Gap(30, None)), 0)
    assert plan([file(20, 29)], 5, 0) == Plan((Gap(5, 20), Gap(30, None)), 0)


def test_what_the_log_has_no_more_is_told_as_lost() -> None:
    assert plan([file(0, 9), file(20, 29)], 0, 15) == Plan((Gap(15, 20), Gap(30, None)), 5)
    assert plan([file(0, 9), file(20, 29)], 0, 25) == Plan((Gap(30, None),), 10)
    assert plan([file(0, 9)], 0, 50) == Plan((Gap(50, None),), 40)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=6), st.integers(0, 30))
def test_progress_archives_exactly_what_no_file_holds(
    ranges: list[tuple[int, int]], log_start: int
) -> None:
    found = [file(first, first + length) for first, length in ranges]
    lowest = min((each.first for each in found), default=None)
    progress = Progress(SOURCE, 1, plan(found, lowest, log_start).gaps)
    taken: list[int] = []
    for offset in range(log_start, 60):
        assert progress.goes_on(offset)
        while progress.beyond(offset):
            progress.close_gap()
            progress.next_gap()
        if offset >= progress.pending.next:
            progress.pending.skip(offset)
            taken.append(offset)
    held = {at for each in found for at in range(each.first, each.last + 1)}
    since = 0 if lowest is None else lowest
    assert taken == [at for at in range(log_start, 60) if at not in held and at >= since]


def test_offsets_that_go_back_are_another_topics() -> None:
    progress = Progress(SOURCE, 1, [Gap(0, None)])
    assert progress.goes_on(7)
    assert progress.goes_on(8)
    assert not progress.goes_on(0)


# -- merging -----------------------------------------------------------------------------------


def days_files(history: Path, count: int = 6, each: int = 4) -> list[HistoryFile]:
    return [
        archive(history, WINDOWS, records(each, at * each), first=at * each) for at in range(count)
    ]


def test_files_of_a_past_day_become_one_and_the_old_ones_go_later(tmp_path: Path) -> None:
    old = days_files(tmp_path)
    where = folder(tmp_path, WINDOWS)
    assert compact(where, WINDOWS, {SOURCE}, DAY_0).merged == 0
    assert compact(where, WINDOWS, {SOURCE}, NEXT_DAY).merged == 1
    (new,) = set(where.files()) - set(old)
    assert (new.first, new.last, new.min_ms, new.max_ms) == (0, 23, DAY_0, DAY_0 + 23 * MINUTE)
    assert read(tmp_path) == list(range(24))
    assert len(where.files()) == 7
    touch(where.file(new), NEXT_DAY)
    assert compact(where, WINDOWS, {SOURCE}, NEXT_DAY + KEPT_MS - 1).removed == 0
    assert compact(where, WINDOWS, {SOURCE}, NEXT_DAY + KEPT_MS).removed == 6
    assert where.files() == [new]
    assert read(tmp_path) == list(range(24))
    again = compact(where, WINDOWS, {SOURCE}, NEXT_DAY + KEPT_MS)
    assert (again.merged, again.removed) == (0, 0)


def test_merged_rows_are_those_of_the_old_files_sorted_by_key(tmp_path: Path) -> None:
    mixed = [window(key, DAY_0 + at * MINUTE) for at in range(9) for key in ("/b", "/a")]
    for at in range(3):
        archive(tmp_path, WINDOWS, mixed[at * 6 : at * 6 + 6], first=at * 6)
    where = folder(tmp_path, WINDOWS)
    before = History(tmp_path, "").windows(NAME, "/a", 0, 1 << 53)
    old = set(where.files())
    compact(where, WINDOWS, {SOURCE}, NEXT_DAY)
    (new,) = set(where.files()) - old
    for each in old:
        where.file(each).unlink()
    assert History(tmp_path, "").windows(NAME, "/a", 0, 1 << 53) == before
    table = pq.read_table(where.file(new))
    assert table.schema.equals(WINDOWS.schema)
    assert table["key"].to_pylist() == ["/a"] * 9 + ["/b"] * 9


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_dataset_can_be_merged(tmp_path: Path, name: str) -> None:
    dataset = DATASETS[name]
    made = {
        "windows": [window("/a", DAY_0), window("/b", DAY_0, sum=None, distinct=None)],
        "sessions": [session("s1", 1, 2), session("s2", 3, 4, steps=[], supersedes=["s1"])],
        "entities": [entity_event("d1", 1, 1), (b"device:d2", b'{"op": "x", "version": 2}')],
    }[name]
    for at, record in enumerate(made):
        archive(tmp_path, dataset, [record], first=at)
    where = folder(tmp_path, dataset)
    old = where.files()
    rows = [row for each in old for row in pq.read_table(where.file(each)).to_pylist()]
    assert compact(where, dataset, {SOURCE}, NEXT_DAY).merged == 1
    (new,) = set(where.files()) - set(old)
    assert sorted(pq.read_table(where.file(new)).to_pylist(), key=str) == sorted(rows, key=str)


def test_other_archivers_partitions_are_left_alone(tmp_path: Path) -> None:
    days_files(tmp_path)
    assert compact(folder(tmp_path, WINDOWS), WINDOWS, set(), NEXT_DAY).merged == 0


def test_a_file_that_cannot_be_read_is_set_aside_and_its_range_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = days_files(tmp_path)
    where = folder(tmp_path, WINDOWS)
    where.file(old[2]).write_bytes(b"PAR1 torn")
    with caplog.at_level(logging.WARNING):
        done = compact(where, WINDOWS, {SOURCE}, NEXT_DAY)
    assert (done.merged, done.aside) == (0, {SOURCE})
    assert old[2].name in caplog.text
    assert where.aside() == [old[2]]
    assert plan(where.files(), 0, 0).gaps == (Gap(8, 12), Gap(24, None))
    archive(tmp_path, WINDOWS, records(4, 8), first=8)
    assert compact(where, WINDOWS, {SOURCE}, NEXT_DAY).merged == 1
    assert read(tmp_path) == list(range(24))


def test_the_first_file_is_missed_when_it_was_set_aside(tmp_path: Path) -> None:
    old = days_files(tmp_path, count=2)
    where = folder(tmp_path, WINDOWS)
    where.set_aside(old[0])
    lowest = min(each.first for each in where.files() + where.aside())
    assert plan(where.files(), lowest, 0).gaps == (Gap(0, 4), Gap(8, None))


def test_old_files_stay_when_the_merged_one_cannot_be_read(tmp_path: Path) -> None:
    old = days_files(tmp_path)
    where = folder(tmp_path, WINDOWS)
    compact(where, WINDOWS, {SOURCE}, NEXT_DAY)
    (new,) = set(where.files()) - set(old)
    where.file(new).write_bytes(b"PAR1 torn")
    touch(where.file(new), NEXT_DAY)
    assert compact(where, WINDOWS, {SOURCE}, NEXT_DAY + KEPT_MS).removed == 0
    starts = History(tmp_path, "").windows(NAME, "/a", 0, 1 << 53)
    assert [(row.start - DAY_0) // MINUTE for row in starts] == list(range(24))
