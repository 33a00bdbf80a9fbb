"""Lanes: watermarks that never go back, bounded in number, the same after a replay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.chunks import lane_marks
from app.engine.lanes import (
    LANE_ID_MAX,
    LANES_MAX,
    LIVE,
    NO_WATERMARK,
    Lane,
    Lanes,
    lane_id,
)

METADATA_BYTES_MAX = 4_096
"""Kafka's default ``offset.metadata.max.bytes``."""

_TIMES = st.integers(0, 253_402_300_799_999)
_NAMES = st.one_of(
    st.just(LIVE),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=LANE_ID_MAX).filter(
        lambda name: name.strip("-") != ""
    ),
)
_MOVES = st.dictionaries(_NAMES, st.tuples(_TIMES, _TIMES), max_size=50)


def after(*moves: dict[str, tuple[int, int]]) -> Lanes:
    lanes = Lanes()
    for move in moves:
        lanes = lanes.advanced(move)
    return lanes


@given(st.lists(_MOVES, max_size=6))
def test_a_watermark_never_goes_back_while_its_lane_lives(
    moves: list[dict[str, tuple[int, int]]],
) -> None:
    lanes = Lanes()
    for move in moves:
        advanced = lanes.advanced(move)
        for name, lane in lanes:
            if name in advanced.by_id:
                assert advanced.watermark(name) >= lane.watermark_ms
                assert advanced.by_id[name].seen_ms >= lane.seen_ms
        lanes = advanced


@given(st.lists(_MOVES, max_size=6))
def test_lanes_are_bounded_and_the_live_lane_is_never_forgotten(
    moves: list[dict[str, tuple[int, int]]],
) -> None:
    lanes = after({LIVE: (5, 5)}, *moves)
    assert len(lanes.by_id) <= LANES_MAX
    assert LIVE in lanes.by_id


def test_the_backfill_silent_the_longest_is_forgotten_first() -> None:
    full = after({LIVE: (0, 0)}, {f"b{i}": (1, 100 + i) for i in range(LANES_MAX - 1)})
    more = full.advanced({"new": (1, 1_000)})
    assert "b0" not in more.by_id
    assert {LIVE, "b1", "new"} <= set(more.by_id)


def test_advancing_leaves_the_old_lanes_as_they_were() -> None:
    old = after({LIVE: (10, 10)})
    old.advanced({LIVE: (20, 20), "b": (1, 1)})
    assert old == after({LIVE: (10, 10)})


def test_an_unknown_lane_has_no_watermark() -> None:
    assert Lanes().watermark("b") == NO_WATERMARK


def test_silence_retires_a_backfill_and_idles_the_live_lane_which_keeps_its_watermark() -> None:
    lanes = after({LIVE: (500, 1_000), "b": (400, 1_000), "awake": (400, 1_001)})
    retired = lanes.retired(now_ms=31_000, idle_ms=30_000)
    assert retired.by_id == {
        LIVE: Lane(500, 1_000, idle=True),
        "awake": Lane(400, 1_001),
    }


def test_retiring_is_only_a_change_when_something_changes() -> None:
    lanes = after({LIVE: (500, 1_000)})
    assert lanes.retired(1_001, 30_000) is lanes
    idle = lanes.retired(40_000, 30_000)
    assert idle.retired(50_000, 30_000) is idle


def test_a_record_wakes_an_idle_lane_without_moving_time_back() -> None:
    idle = after({LIVE: (500, 1_000)}).retired(40_000, 30_000)
    assert idle.advanced({LIVE: (100, 41_000)}).by_id[LIVE] == Lane(500, 41_000)


@given(st.lists(_MOVES, max_size=4), _TIMES)
def test_encoding_round_trips(moves: list[dict[str, tuple[int, int]]], now_ms: int) -> None:
    lanes = after(*moves).retired(now_ms, 30_000)
    assert Lanes.decode(lanes.encode()) == lanes


@pytest.mark.parametrize(
    "text",
    ["", "x", "a,b", ",1,2", ",1,2,0,9", ";;;", "a,1,x,0", ",,,", "{}", "NULL", "a,1,2,0;rubbish"],
)
def test_metadata_of_something_else_gives_no_lanes(text: str) -> None:
    assert Lanes.decode(text) == Lanes()


@given(st.text())
def test_no_metadata_fails_to_decode(text: str) -> None:
    Lanes.decode(text)


def test_the_most_lanes_fit_into_the_metadata_of_an_offset() -> None:
    latest = 253_402_300_799_999
    names = [f"{i:0{LANE_ID_MAX}d}" for i in range(LANES_MAX * 2)]
    lanes = after({LIVE: (latest, latest)}, dict.fromkeys(names, (latest, latest)))
    assert len(lanes.by_id) == LANES_MAX
    assert len(lanes.encode().encode()) < METADATA_BYTES_MAX


@pytest.mark.parametrize("raw", [b"a", b"0", b"ship-2026-11-21", b"x" * LANE_ID_MAX])
def test_a_short_plain_header_names_a_lane(raw: bytes) -> None:
    assert lane_id(raw) == raw.decode()


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"-",
        b"x" * (LANE_ID_MAX + 1),
        b"a,b",
        b"a;b",
        b"a b",
        b"\xff",
        b"a\n",
        b"\xc2\xb2",
    ],
)
def test_any_other_header_is_live_traffic(raw: bytes | None) -> None:
    assert lane_id(raw) == LIVE


@given(st.binary(max_size=40))
def test_every_lane_id_survives_the_encoding(raw: bytes) -> None:
    lanes = after({lane_id(raw): (1, 2)})
    assert Lanes.decode(lanes.encode()) == lanes


def test_lanes_that_come_and_go_in_one_batch_are_told_of_as_idle() -> None:
    moved = {f"file-{n}": (n, n) for n in range(LANES_MAX + 3)}
    before = after({LIVE: (5, 5)})
    marks = lane_marks(before, before.advanced(moved))
    assert {name for name, mark in marks.items() if mark.idle} == {f"file-{n}" for n in range(4)}
    assert set(marks) == set(moved)
