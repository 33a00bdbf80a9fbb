"""The global half: chunks in, rows and marks out; garbage refused; old rows removed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.log_events.agent import log_events_agent
from agents.topics import LOG_EVENTS, WINDOW_PARTIALS
from agents.windows.agent import windows_agent
from agents.windows.repartition import decode_partial, encode_partial, window_repartition
from agents.windows.retention import PAUSE_MS, WHOLE_EACH, RetentionTick
from app.engine.chunks import Chunk, LaneMark, decode_chunk, encode_chunk
from app.engine.epoch import TaskId
from tables.windows.stats import WindowStats
from tests.windows.driver import (
    HOUR,
    MINUTE,
    NOW,
    TEN,
    WindowsDriver,
    event,
    minute_spec,
)
from tests.windows.world import World

NAME = "requests_per_endpoint"
UNWRITTEN = minute_spec(kind="sliding")
"""Of which nothing is ever written: nothing but its retention keeps a row."""
ONE = encode_partial((NAME, "/a", TEN), WindowStats(count=1, lanes=("0/",), updated_ms=5))
MARK = LaneMark(1, 2, idle=False)


def chunk(*partials: bytes, source: int = 0, lane: str = "") -> bytes:
    return encode_chunk(Chunk(source, {lane: MARK}, list(partials)))


def test_chunks_of_several_sources_add_up():
    driver = WindowsDriver()
    effects = driver.merge_records([chunk(ONE, ONE), chunk(ONE, source=3, lane="file-1")])
    assert effects.applied == 2
    assert driver.rows("/a") == [(TEN, WindowStats(count=3, lanes=("0/",), updated_ms=5))]
    assert driver.marks() == {"0/": MARK, "3/file-1": MARK}


def test_a_chunk_of_marks_alone_moves_lanes_only():
    driver = WindowsDriver()
    assert driver.merge_records([chunk()]).applied == 1
    assert (driver.all_rows(), driver.marks()) == ({}, {"0/": MARK})


GARBAGE: dict[str, bytes | None] = {
    "no value": None,
    "empty": b"",
    "text": b"hello",
    "deep": b"\x91" * 100_000,
    "another struct": msgspec.msgpack.encode([1, 2]),
    "garbage for a partial": chunk(ONE, b"\xff"),
    "unknown window": chunk(ONE, encode_partial(("dropped", "/a", TEN), WindowStats(count=1))),
    "start before the epoch": chunk(encode_partial((NAME, "/a", -1), WindowStats(count=1))),
    "key too long": chunk(encode_partial((NAME, "a" * 70_000, TEN), WindowStats(count=1))),
    "negative count": chunk(encode_partial((NAME, "/a", TEN), WindowStats(count=-1))),
    "contradiction": chunk(encode_partial((NAME, "/a", TEN), WindowStats(errors=1))),
    "source below 0": chunk(ONE, source=-1),
    "source too high": chunk(ONE, source=1 << 20),
    "lane with a slash": chunk(ONE, lane="a/b"),
    "lane too long": chunk(ONE, lane="a" * 25),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_rejected_whole_and_costs_only_itself(name: str):
    driver = WindowsDriver()
    effects = driver.merge_records([chunk(ONE), GARBAGE[name], chunk(ONE)])
    [reject] = effects.rejects
    assert (reject.index, reject.kind) == (1, "VALIDATION")
    assert 0 < len(reject.reason) <= 300
    assert [stats.count for _, stats in driver.rows("/a")] == [2]


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_random_bytes_never_change_a_window(garbage: list[bytes]):
    driver = WindowsDriver()
    driver.merge_records([chunk(ONE), *garbage])
    assert [stats.count for _, stats in driver.rows("/a")] == [1]


def test_the_reject_of_an_unknown_window_names_the_configured_ones():
    effects = WindowsDriver().merge_records([GARBAGE["unknown window"]])
    assert effects.rejects[0].reason == f"no window is named 'dropped'; configured: {NAME}"


@given(
    st.tuples(st.text(max_size=5), st.text(max_size=9), st.integers(0, 1 << 50)),
    st.integers(0, 9),
)
def test_partials_round_trip_through_their_encoding(key: tuple[str, str, int], count: int):
    stats = WindowStats(count=count, lanes=("0/",))
    assert decode_partial(encode_partial(key, stats)) == (key, stats)


def test_partials_go_where_their_key_goes_whatever_window_and_start():
    repartition = window_repartition("window-partials")
    assert repartition.topic == "window-partials"
    assert repartition.route((NAME, "/ü", TEN)) == "/ü".encode()


def test_a_partial_for_a_final_window_revises_it():
    driver = WindowsDriver()
    driver.feed([event(TEN), event(TEN + HOUR, "/clock")])
    assert driver.windows("/a")[0]["state"] == "final"
    driver.feed([event(TEN)], partition=1)
    assert driver.windows("/a")[0]["count"] == 2


def test_retention_counts_from_the_last_update_not_from_event_time():
    driver = WindowsDriver(UNWRITTEN)
    day = 24 * HOUR
    driver.feed([event(TEN - 30 * day)], lane="file-1", ingest=NOW)
    driver.feed([event(TEN, "/b")], ingest=NOW - 5_000)
    assert driver.sweep(NOW + day - 5_000) == 0
    assert driver.sweep(NOW + day) == 1
    assert [start for start, _ in driver.rows("/a")] == [TEN - 30 * day]
    assert driver.rows("/b") == []
    assert driver.sweep(NOW + day + 1) == 1


def test_rows_stop_growing_when_each_sweep_sees_a_slice():
    spec = replace(UNWRITTEN, retention_ms=10 * MINUTE)
    retention = RetentionTick((spec,), rows_per_tick=7, pause_ms=0)
    driver = WindowsDriver(spec, retention=retention)
    most = 0
    for minute in range(60):
        now = NOW + minute * MINUTE
        driver.feed([event(TEN + minute * MINUTE, f"/{i}") for i in range(3)], ingest=now)
        for _ in range(10):
            driver.sweep(now)
        most = max(most, len(driver.all_rows()))
    assert most == 3 * 11


def test_a_round_looks_at_the_front_of_each_key_and_at_what_expired_behind_it(
    monkeypatch: pytest.MonkeyPatch,
):
    spec, looked = replace(UNWRITTEN, retention_ms=10 * MINUTE), []
    driver = WindowsDriver(spec)
    for minute in range(12):
        now = NOW + minute * MINUTE
        driver.feed([event(TEN + minute * MINUTE, f"/{i}") for i in range(5)], ingest=now)
    store = driver.driver._stores[TaskId(WINDOW_PARTIALS, 0)]
    inner = store.range

    def counted(family: str, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False):
        rows = list(inner(family, lo, hi, limit=limit, reverse=reverse))
        if family == spec.table().identity:
            looked.append(len(rows))
        return iter(rows)

    monkeypatch.setattr(store, "range", counted)
    driver.sweep(NOW + 5 * MINUTE)
    assert sum(looked) == 5
    driver.sweep(NOW + 11 * MINUTE + 1)  # two have expired of each key
    assert len(driver.all_rows()) == 5 * 10


def test_rows_behind_older_ones_that_stay_are_removed_by_a_round_over_all():
    driver = WindowsDriver(replace(UNWRITTEN, retention_ms=10 * MINUTE))
    driver.feed([event(TEN)], ingest=NOW)
    driver.feed([event(TEN - HOUR)], lane="file-1", ingest=NOW + 10 * MINUTE)
    assert driver.sweep(NOW + 10 * MINUTE + 1) == 0
    for _ in range(WHOLE_EACH):
        driver.sweep(NOW + 10 * MINUTE + 1)
    assert [start for start, _ in driver.rows("/a")] == [TEN - HOUR]


def test_rounds_pause_once_they_are_through():
    spec = replace(UNWRITTEN, retention_ms=10 * MINUTE)
    driver = WindowsDriver(spec, retention=RetentionTick((spec,)))
    driver.feed([event(TEN)], ingest=NOW)
    assert driver.sweep(NOW + 10 * MINUTE) == 0
    assert driver.sweep(NOW + 10 * MINUTE + PAUSE_MS - 1) == 0
    assert driver.sweep(NOW + 10 * MINUTE + PAUSE_MS) == 1


@pytest.mark.parametrize("updated", [True, False])
def test_a_row_updated_since_the_last_commit_is_not_removed(updated: bool):
    spec = (UNWRITTEN,)
    agents = (log_events_agent(spec), windows_agent(spec))
    world = World(agents, {LOG_EVENTS: 1, WINDOW_PARTIALS: 1}, NOW)
    world.put(LOG_EVENTS, [event(TEN)], 0)
    world.settle()
    world.clock.advance(48 * HOUR)
    if updated:
        world.put(LOG_EVENTS, [event(TEN)], 0)
        assert world.pump(TaskId(LOG_EVENTS, 0))
        assert world.commit()
        assert world.pump(TaskId(WINDOW_PARTIALS, 0))
    world.tick()
    world.commit()
    rows = world.rows(WINDOW_PARTIALS, NAME)
    assert [stats.count for stats in rows.values()] == ([2] if updated else [])


def test_a_chunk_round_trips_the_lanes_it_carries():
    assert decode_chunk(chunk(ONE, lane="file-1")).lanes == {"file-1": MARK}
