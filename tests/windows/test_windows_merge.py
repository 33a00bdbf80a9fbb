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
from agents.windows.repartition import (
    PartialKey,
    decode_partial,
    encode_partial,
    window_repartition,
)
from agents.windows.retention import PAUSE_MS, RetentionTick
from app.engine.chunks import Chunk, LaneMark, decode_chunk, encode_chunk
from app.engine.epoch import TaskId
from tables.windows.keys import PERIOD_MS
from tables.windows.periods import PERIODS_TABLE, periods_table
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
    return encode_chunk(Chunk({f"{source}/{lane}": MARK}, list(partials)))


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
    "start before the epoch": chunk(encode_partial((NAME, "/a", -1), WindowStats(count=1))),
    "key too long": chunk(encode_partial((NAME, "a" * 70_000, TEN), WindowStats(count=1))),
    "negative count": chunk(encode_partial((NAME, "/a", TEN), WindowStats(count=-1))),
    "contradiction": chunk(encode_partial((NAME, "/a", TEN), WindowStats(errors=1))),
    "source below 0": chunk(ONE, source=-1),
    "source too high": chunk(ONE, source=1 << 20),
    "source with a leading 0": encode_chunk(Chunk({"01/": MARK}, [ONE])),
    "no source": encode_chunk(Chunk({"": MARK}, [ONE])),
    "source in other digits": encode_chunk(Chunk({"\u0661/": MARK}, [ONE])),
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


@pytest.mark.parametrize("key", [("dropped", "/a", TEN), (NAME, "/a", TEN + 1)])
def test_what_was_under_way_for_another_declaration_costs_the_others_nothing(key: PartialKey):
    driver = WindowsDriver()
    effects = driver.merge_records([chunk(ONE, encode_partial(key, WindowStats(count=1)), ONE)])
    assert (effects.applied, effects.rejects) == (1, [])
    assert [stats.count for _, stats in driver.rows("/a")] == [2]
    assert driver.marks() == {"0/": MARK}


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
    driver.feed([event(TEN, "/b")], ingest=NOW - 2 * MINUTE)
    assert driver.sweep(NOW + day - 2 * MINUTE) == 0
    assert driver.sweep(NOW + day) == 1
    assert [start for start, _ in driver.rows("/a")] == [TEN - 30 * day]
    assert driver.rows("/b") == []
    assert driver.sweep(NOW + day + 1) == 1


def test_rows_stop_growing_when_each_tick_looks_at_a_slice():
    spec = replace(UNWRITTEN, retention_ms=HOUR)
    driver = WindowsDriver(spec, retention=RetentionTick((spec,), rows_per_tick=1, pause_ms=0))
    sizes = []
    for step in range(24 * 6):
        now = NOW + step * 10 * MINUTE
        driver.feed([event(TEN + step * 10 * MINUTE, f"/{i}") for i in range(3)], ingest=now)
        for _ in range(10):
            driver.sweep(now)
        sizes.append(len(driver.all_rows()))
    most = 3 * (PERIOD_MS + HOUR) // (10 * MINUTE)
    assert max(sizes) == max(sizes[-18:]) == most
    assert min(sizes[-18:]) == most - 3 * 17


def test_panes_of_a_period_are_not_looked_at_while_it_stays_nor_when_it_goes(
    monkeypatch: pytest.MonkeyPatch,
):
    spec, looked = replace(UNWRITTEN, retention_ms=10 * MINUTE), []
    driver = WindowsDriver(spec)
    driver.feed([event(TEN + n * 1_000, f"/{n}") for n in range(60)], ingest=NOW)
    store = driver.driver._stores[TaskId(WINDOW_PARTIALS, 0)]
    inner = store.range

    def counted(family: str, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False):
        rows = list(inner(family, lo, hi, limit=limit, reverse=reverse))
        if family == spec.table().identity and limit < 10_000:  # which is how the driver counts
            looked.append(len(rows))
        return iter(rows)

    monkeypatch.setattr(store, "range", counted)
    assert driver.sweep(NOW + 10 * MINUTE) == 0
    assert sum(looked) == 1  # which periods there are
    assert driver.sweep(NOW + 10 * MINUTE + 1) == 60
    assert sum(looked) == 3


def test_a_late_event_keeps_its_period_and_no_other():
    driver = WindowsDriver(replace(UNWRITTEN, retention_ms=10 * MINUTE))
    driver.feed([event(TEN - PERIOD_MS), event(TEN), event(TEN + MINUTE, "/b")], ingest=NOW)
    driver.feed([event(TEN + MINUTE)], lane="file-1", ingest=NOW + 10 * MINUTE)
    assert driver.sweep(NOW + 10 * MINUTE + 1) == 1
    assert {start for start, _ in driver.rows("/a")} == {TEN, TEN + MINUTE}
    assert [start for start, _ in driver.rows("/b")] == [TEN + MINUTE]
    driver.sweep(NOW + 10 * MINUTE + 2)
    assert driver.sweep(NOW + 20 * MINUTE + 1) == 3


def test_rounds_pause_once_they_are_through():
    spec = replace(UNWRITTEN, retention_ms=10 * MINUTE)
    driver = WindowsDriver(spec, retention=RetentionTick((spec,)))
    driver.feed([event(TEN)], ingest=NOW)
    assert driver.sweep(NOW + 10 * MINUTE) == 0
    assert driver.sweep(NOW + 10 * MINUTE + PAUSE_MS - 1) == 0
    assert driver.sweep(NOW + 10 * MINUTE + PAUSE_MS) == 1


def test_a_period_that_nothing_is_known_of_stays_for_another_retention():
    driver = WindowsDriver(UNWRITTEN)
    driver.feed([event(TEN), event(TEN - 30 * HOUR)], ingest=NOW)
    store = driver.driver._stores[TaskId(WINDOW_PARTIALS, 0)]
    known = driver.all_rows(PERIODS_TABLE)
    store.write(periods_table().identity, dict.fromkeys(known, None))
    task = driver.driver.tasks[TaskId(WINDOW_PARTIALS, 0)]
    task.table(PERIODS_TABLE).drop()  # what is cached
    assert driver.sweep(NOW + 48 * HOUR) == 0
    assert driver.sweep(NOW + 72 * HOUR) == 0
    assert driver.sweep(NOW + 72 * HOUR + 1) == 1
    for ms in range(2, 6):
        driver.sweep(NOW + 72 * HOUR + ms)
    assert driver.all_rows() == {} == driver.all_rows(PERIODS_TABLE)


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
    assert decode_chunk(chunk(ONE, lane="file-1")).lanes == {"0/file-1": MARK}
