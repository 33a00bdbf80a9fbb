"""Partials on their way to the global stage: packed, nothing lost, nothing doubled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import producing
from app.engine.chunks import Chunk, LaneMark, decode_chunk
from app.engine.epoch import Rekeyed
from app.engine.producing import pack
from tests.engine.rig import REPARTITION, partition_of

_MARKS = {"7/": LaneMark(5, 4, idle=False)}


def packed(values: dict[str, int], count: int, *, broadcast: bool) -> list[tuple[int, Chunk]]:
    counted = {"w": {7: (len(values), 2)}} if values else {}
    rekeyed = Rekeyed("source", REPARTITION, values, counted, _MARKS, broadcast)
    return [(to, decode_chunk(raw)) for to, raw in pack(rekeyed, {7: 9, 8: 3}, count)]


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(0, 99), max_size=30),
    st.integers(1, 8),
    st.booleans(),
)
def test_the_chunks_hold_every_partial_once_where_its_key_lives(
    values: dict[str, int], count: int, broadcast: bool
) -> None:
    found: list[tuple[str, int]] = []
    for to, chunk in packed(values, count, broadcast=broadcast):
        assert chunk.lanes == _MARKS
        for raw in chunk.partials:
            key, value = REPARTITION.decode(raw)
            assert partition_of(key, count) == to
            found.append((key, value))
    assert sorted(found) == sorted(values.items())


@given(st.dictionaries(st.text("abc", max_size=3), st.integers(), max_size=9), st.integers(1, 6))
def test_a_broadcast_reaches_every_destination_and_silence_none(
    values: dict[str, int], count: int
) -> None:
    broadcast = [to for to, _ in packed(values, count, broadcast=True)]
    assert sorted(broadcast) == list(range(count))
    plain = [to for to, _ in packed(values, count, broadcast=False)]
    assert set(plain) == {partition_of(key, count) for key in values}


@pytest.mark.parametrize("broadcast", [True, False])
def test_a_chunk_is_split_at_its_bound_and_the_split_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, broadcast: bool
) -> None:
    monkeypatch.setattr(producing, "CHUNK_BYTES_MAX", 40)
    values = {f"key-{i:04}": i for i in range(50)}
    chunks = packed(values, 3, broadcast=broadcast)
    assert all(sum(map(len, chunk.partials)) <= 40 for _, chunk in chunks)
    assert len(chunks) > 3
    decoded = [REPARTITION.decode(raw) for _, chunk in chunks for raw in chunk.partials]
    assert sorted(decoded) == sorted(values.items())


@pytest.mark.parametrize("bytes_max", [40, 1 << 20])
def test_one_chunk_of_an_epoch_says_what_all_are_made_of(
    monkeypatch: pytest.MonkeyPatch, bytes_max: int
) -> None:
    monkeypatch.setattr(producing, "CHUNK_BYTES_MAX", bytes_max)
    chunks = [chunk for _, chunk in packed({f"key-{i}": i for i in range(50)}, 3, broadcast=True)]
    assert (chunks[0].positions, chunks[0].counted) == ({7: 9, 8: 3}, {"w": {7: (50, 2)}})
    assert not any(chunk.positions or chunk.counted for chunk in chunks[1:])
    [marks] = [chunk for _, chunk in packed({}, 1, broadcast=True)]
    assert (marks.positions, marks.counted) == ({}, {})


def test_a_partial_larger_than_a_chunk_travels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producing, "CHUNK_BYTES_MAX", 10)
    large = "x" * 30
    chunks = packed({"a": 1, large: 2, "b": 3}, 1, broadcast=True)
    assert [chunk.partials for _, chunk in chunks] == [
        [b"a=1"],
        [b"%s=2" % large.encode()],
        [b"b=3"],
    ]


def test_the_marks_come_with_the_last_chunk_of_a_destination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producing, "CHUNK_BYTES_MAX", 40)
    chunks = packed({f"key-{i:04}": i for i in range(50)}, 3, broadcast=True)
    for partition in range(3):
        mine = [chunk.lanes for to, chunk in chunks if to == partition]
        assert len(mine) > 1
        assert mine[-1] == _MARKS
        assert not any(mine[:-1])


def test_more_marks_than_a_chunk_holds_follow_the_partials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producing, "CHUNK_MARKS_MAX", 4)
    marks = {f"file-{n}": LaneMark(n, n, idle=True) for n in range(10)}
    rekeyed = Rekeyed("source", REPARTITION, {"a": 1}, {}, marks, broadcast=True)
    chunks = [decode_chunk(raw) for _, raw in pack(rekeyed, {}, 1)]
    assert [(len(chunk.lanes), len(chunk.partials)) for chunk in chunks] == [(4, 1), (4, 0), (2, 0)]
    told = {name: mark for chunk in chunks for name, mark in chunk.lanes.items()}
    assert told == marks
