"""What a file's name says, and which file speaks for which offsets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.history.names import HistoryFile, Source, day_of, parse_day, parse_name
from tables.history.ranges import (
    MERGE_BYTES_MAX,
    SMALL_BYTES,
    SMALL_MAX,
    Gap,
    Piece,
    cover,
    gaps,
    merged,
    merges,
    superseded,
)

DAY = "2026-11-21"
OLD = "2026-11-20"
SOURCE = Source("0badcafe", 3)

offsets = st.integers(0, 60)
moments = st.integers(0, 1 << 53)


def file(first: int, last: int, *, day: str = DAY, source: Source = SOURCE) -> HistoryFile:
    return HistoryFile(source, first, last, 10, 20, day, 12)


files = st.builds(
    lambda first, length, partition: file(
        first, first + length, source=Source("0badcafe", partition)
    ),
    offsets,
    st.integers(0, 20),
    st.integers(0, 2),
)


@given(
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 99_999),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 30),
    moments,
    moments,
    st.none() | st.integers(1, 256),
)
def test_a_name_says_everything_and_reads_back(
    topic_id: int, partition: int, first: int, length: int, a_ms: int, b_ms: int, of: int | None
) -> None:
    made = HistoryFile(
        Source(f"{topic_id:08x}", partition),
        first,
        first + length,
        min(a_ms, b_ms),
        max(a_ms, b_ms),
        DAY,
        of,
    )
    assert parse_name(DAY, made.name) == made
    assert made.path == f"day={DAY}/{made.name}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "readme.txt",
        ".tmp-0123",
        "0badcafe-p3-0-9-0-1.parquet.bad",
        "0badcafe-p3-0-9-0-1.PARQUET",
        "0badcafe-p3-9-0-0-1.parquet",
        "0badcafe-p3-0-9-1-0.parquet",
        "0badcafe-p03-0-9-0-1.parquet",
        "0badcafe-p3of0-0-9-0-1.parquet",
        "0badcafe-p3-0-9-0-1.parquet\n",
        "0badcafe-p3-٣-9-0-1.parquet",
        "../0badcafe-p3-0-9-0-1.parquet",
        "0badcafe-p3--1-9-0-1.parquet",
    ],
)
def test_a_name_that_is_not_ours_is_no_file(name: str) -> None:
    assert parse_name(DAY, name) is None


@pytest.mark.parametrize("folder", ["day=2026-02-30", "day=26-1-1", "2026-11-21", "day=", ".spill"])
def test_a_folder_that_is_no_day_is_passed_over(folder: str) -> None:
    assert parse_day(folder) is None


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        (0, "1970-01-01"),
        (86_399_999, "1970-01-01"),
        (86_400_000, "1970-01-02"),
        (1_795_219_200_000, "2026-11-21"),
        (-1, "1969-12-31"),
        (1 << 62, "9999-12-31"),
        (-(1 << 62), "0001-01-01"),
    ],
)
def test_a_day_is_the_utc_day(moment: int, day: str) -> None:
    assert day_of(moment) == day
    assert parse_day(f"day={day}") == day


def held(pieces: list[Piece]) -> list[tuple[Source, int]]:
    return [
        (piece.file.source, offset)
        for piece in pieces
        for offset in range(piece.first, piece.last + 1)
    ]


@given(st.lists(files, max_size=12))
def test_each_offset_of_any_files_is_read_exactly_once(found: list[HistoryFile]) -> None:
    read = held(cover(found))
    assert len(read) == len(set(read))
    assert set(read) == {
        (each.source, offset) for each in found for offset in range(each.first, each.last + 1)
    }
    for piece in cover(found):
        assert piece.file.first <= piece.first <= piece.last <= piece.file.last


@given(st.lists(files, max_size=12), st.randoms())
def test_what_is_read_does_not_depend_on_the_order_of_a_listing(
    found: list[HistoryFile], draw: object
) -> None:
    shuffled = list(found)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cover(shuffled) == cover(found)


@given(st.lists(files, max_size=12))
def test_removing_superseded_files_changes_nothing_that_is_read(found: list[HistoryFile]) -> None:
    found = list(dict.fromkeys(found))
    gone = {old for old, _ in superseded(found)}
    kept = [each for each in found if each not in gone]
    assert sorted(held(cover(kept))) == sorted(held(cover(found)))
    for old, wider in superseded(found):
        assert old != wider
        assert wider not in gone
        assert wider.first <= old.first <= old.last <= wider.last


def test_a_merged_file_is_read_instead_of_those_it_replaces() -> None:
    old = [file(0, 4), file(5, 9), file(10, 10)]
    new = merged(old)
    assert cover([*old, new]) == [Piece(new, 0, 10)]
    assert {gone for gone, _ in superseded([*old, new])} == set(old)


def test_of_a_file_that_overlaps_only_what_is_new_is_read() -> None:
    owner, zombie = file(0, 80), file(51, 120)
    assert cover([zombie, owner]) == [Piece(owner, 0, 80), Piece(zombie, 81, 120)]


def test_gaps_are_what_no_file_speaks_for() -> None:
    assert gaps([]) == [Gap(0, None)]
    assert gaps([file(5, 9)]) == [Gap(10, None)]
    assert gaps([file(5, 9)], lowest=2) == [Gap(2, 5), Gap(10, None)]
    assert gaps([file(20, 29), file(5, 9), file(7, 12)]) == [Gap(13, 20), Gap(30, None)]
    with pytest.raises(ValueError, match="one source"):
        gaps([file(0, 1), file(0, 1, source=Source("0badcafe", 4))])


@given(st.lists(offsets.map(lambda at: file(at, at + 3)), min_size=1, max_size=8))
def test_files_and_gaps_together_are_the_whole_log(found: list[HistoryFile]) -> None:
    *inner, last = gaps(found, lowest=0)
    missing = {at for gap in inner for at in range(gap.first, gap.end or 0)}
    there = {offset for _, offset in held(cover(found))}
    assert last == Gap(max(there) + 1, None)
    assert missing | there == set(range(last.first))
    assert missing & there == set()


def test_files_of_a_past_day_become_one() -> None:
    found = [file(at * 10, at * 10 + 9, day=OLD) for at in range(5)]
    assert merges(found, dict.fromkeys(found, 1_000), DAY) == [found]
    assert merged(found) == file(0, 49, day=OLD)


def test_files_of_today_wait_until_they_are_many() -> None:
    found = [file(at * 10, at * 10 + 9) for at in range(SMALL_MAX)]
    sizes = dict.fromkeys(found, 1_000)
    assert merges(found[:-1], sizes, DAY) == []
    assert merges(found, sizes, DAY) == [found]
    assert merges(found, dict.fromkeys(found, SMALL_BYTES), DAY) == []


def test_files_apart_are_not_merged() -> None:
    hole = [file(0, 9, day=OLD), file(11, 19, day=OLD)]
    days = [file(0, 9, day=OLD), file(10, 19, day="2026-11-19")]
    others = [file(0, 9, day=OLD), file(10, 19, day=OLD, source=Source("0badcafe", 4))]
    overlap = [file(0, 9, day=OLD), file(5, 19, day=OLD)]
    for found in (hole, days, others, overlap):
        assert merges(found, dict.fromkeys(found, 1_000), DAY) == []
    assert merges([file(0, 9, day=OLD), file(10, 19, day=OLD)], {}, DAY) == []


@given(st.lists(st.integers(1, MERGE_BYTES_MAX + 10), min_size=1, max_size=20))
def test_merging_ends_and_bounds_what_it_makes(sizes_of: list[int]) -> None:
    sizes = {file(at, at, day=OLD): size for at, size in enumerate(sizes_of)}
    for _ in range(len(sizes_of) + 1):
        groups = merges(sizes, sizes, DAY)
        if not groups:
            break
        for group in groups:
            assert sum(sizes[each] for each in group) <= MERGE_BYTES_MAX
            new = merged(group)
            total = sum(sizes.pop(each) for each in group)
            sizes[new] = total
    assert merges(sizes, sizes, DAY) == []
    assert sum(sizes.values()) == sum(sizes_of)
    for left, right in pairwise(sorted(sizes, key=lambda each: each.first)):
        assert left.last + 1 == right.first


def test_a_merged_file_claims_a_placement_only_if_all_had_the_same() -> None:
    plain = HistoryFile(SOURCE, 10, 19, 5, 30, DAY)
    assert merged([file(0, 9), plain]).partitions is None
    assert merged([file(0, 9), plain]).min_ms == 5
    assert merged([file(0, 9), plain]).max_ms == 30
    assert merged([file(0, 9), file(10, 19)]).partitions == 12
