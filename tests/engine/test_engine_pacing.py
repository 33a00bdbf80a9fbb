"""How much is done at once: small pieces while a worker keeps up, larger ones while it is late."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import filling
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, View
from app.engine.epoch import TaskId
from app.engine.pacing import (
    ASKED_SPAN_S,
    CPU_SHARE,
    FOLD_MAX,
    FOLD_MIN,
    KEEPS_UP_S,
    LATE_SHARE,
    LATE_SPANS,
    SPAN_MIN_S,
    TURN_ASKED_S,
    TURN_BYTES_MIN,
    TURN_LATE_S,
    TURN_S,
    FetchPace,
    FoldSize,
    TurnSize,
    behind_s,
    epoch_s,
    normal_s,
    turn_s,
)
from app.engine.queries import Cluster, EngineQueries
from app.engine.standby_tail import Standby
from app.engine.stores import Stores
from tests.engine.rig import COUNTS, PATIENCE_S, SOURCE, Rig, batch, count_step, counting_agent

INTERVAL_S = 0.1
STANDBY = TaskId("source", 1)
times = st.floats(0, 1e6)


def test_what_waits_takes_as_long_as_the_slowest_topic_says() -> None:
    taken, waiting = {"events": 1_000, "partials": 10}, {"events": 5_000, "partials": 80}
    assert behind_s(0.5, taken, waiting) == 4.0


def test_a_topic_of_which_nothing_was_taken_says_nothing() -> None:
    assert behind_s(0.5, {"events": 100}, {"events": 0, "halted": 1_000_000}) == 0.0
    assert behind_s(0.5, {}, {"events": 7}) == 0.0


@given(times, st.floats(0.005, 10.0))
def test_an_epoch_that_costs_little_still_waits_for_company(cost: float, interval: float) -> None:
    span = normal_s(cost, interval)
    assert min(interval, SPAN_MIN_S) <= span <= interval
    assert span in (interval, SPAN_MIN_S, cost * CPU_SHARE)
    assert normal_s(0.0, interval) == min(interval, SPAN_MIN_S)


folds = st.tuples(st.integers(0, 100_000), st.integers(0, 300_000), st.floats(0, 10))


@given(st.lists(folds, max_size=30), times)
def test_a_part_of_an_epoch_is_worked_out_once_it_fills_a_turn(
    done: list[tuple[int, int, float]], turn: float
) -> None:
    fold = FoldSize()
    for records, partials, seconds in done:
        fold.observe(records, partials, seconds)
    fold.partials = 50
    assert fold.due(FOLD_MAX, turn)
    assert not fold.due(FOLD_MIN - 1, turn)
    size = next(n for n in range(FOLD_MIN, FOLD_MAX + 1) if fold.due(n, turn))
    assert size == FOLD_MIN or size * fold.seconds_per_record <= turn


def test_of_many_keys_no_part_of_an_epoch_is_worked_out_before_its_end() -> None:
    few, many = FoldSize(), FoldSize()
    few.observe(4_096, 50, 0.001)
    many.observe(4_096, 3_000, 0.001)
    assert (few.due(100_000, 1.0), many.due(100_000, 1.0)) == (True, False)
    many.partials = 50
    assert many.due(FOLD_MAX, 1.0)


@given(times)
def test_who_keeps_up_commits_as_usual(normal: float) -> None:
    assert epoch_s(normal, INTERVAL_S, 0.0) == normal
    assert epoch_s(normal, INTERVAL_S, KEEPS_UP_S) == normal
    assert turn_s(KEEPS_UP_S, inf) == TURN_S


@given(times, times)
def test_an_epoch_and_a_turn_are_never_longer_than_their_bounds(late: float, more: float) -> None:
    span = epoch_s(0.01, INTERVAL_S, late)
    assert 0.01 <= span <= LATE_SPANS * INTERVAL_S
    assert span <= max(0.01, late / LATE_SHARE)
    assert TURN_S <= turn_s(late, inf) <= TURN_LATE_S
    assert turn_s(late, 0.0) == min(TURN_ASKED_S, turn_s(late, ASKED_SPAN_S))
    assert epoch_s(0.01, INTERVAL_S, late + more) >= span
    assert turn_s(late + more, inf) >= turn_s(late, inf)


def test_a_turn_holds_what_it_has_time_for() -> None:
    turn = TurnSize()
    for _ in range(60):
        turn.observe(1_000_000, 0.1)
    assert turn.size(0.05) == pytest.approx(500_000, rel=0.01)
    assert turn.size(0.0001) == TURN_BYTES_MIN


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(0, 1e3))), st.floats(1e-4, 1))
def test_a_turn_is_never_empty(seen: list[tuple[int, float]], seconds: float) -> None:
    turn = TurnSize()
    for size, took_s in seen:
        turn.observe(size, took_s)
        assert turn.size(seconds) >= TURN_BYTES_MIN


async def test_fat_records_are_worked_on_one_by_one(tmp_path: Path) -> None:
    sizes: list[int] = []

    def step(records: RecordBatch, view: View, now_ms: int) -> Effects:
        sizes.append(len(records))
        return count_step(records, view, now_ms)

    rig = Rig(tmp_path, (counting_agent(step=step),))
    await rig.start()
    await rig.feed(batch([b"x" * (1 << 20)] * 3))
    assert sizes == [1, 1, 1]
    await rig.feed(batch([b"x"] * 40, 3))
    assert sizes == [1, 1, 1, 40]
    await rig.engine.close()


async def test_turns_of_a_late_worker_are_short_while_it_is_asked(tmp_path: Path) -> None:
    sizes: list[int] = []

    def step(records: RecordBatch, view: View, now_ms: int) -> Effects:
        sizes.append(len(records))
        rig.clock.advance(len(records) / 1_000)
        return count_step(records, view, now_ms)

    rig = Rig(tmp_path, (counting_agent(step=step),))
    await rig.start()
    await rig.feed(batch([b"x" * 4_096] * 1_000))
    rig.flow.ends[SOURCE] = 1_000_000
    assert await rig.commit()
    await rig.feed(batch([b"x" * 4_096] * 200, 1_000))
    assert max(sizes[-3:]) >= 40
    EngineQueries(rig.engine, cast(Cluster, None), rig.clock).table(SOURCE.topic, 0, COUNTS.name)
    await rig.feed(batch([b"x" * 4_096] * 100, 1_200))
    assert max(sizes[-3:]) <= 10
    await rig.engine.close()


async def test_each_query_is_noted_and_no_figure_that_the_worker_takes_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    asked: list[str] = []
    monkeypatch.setattr(rig.engine, "asked", lambda: asked.append("query"))
    store = Stores(rig.engine.config).take(STANDBY, counting_agent())
    assert store is not None
    standby = Standby(STANDBY, "source-changelog", store, 0, current_at_s=0.0)
    monkeypatch.setattr(rig.engine.standbys, "find", {STANDBY: standby}.get)
    queries = EngineQueries(rig.engine, cast(Cluster, None), rig.clock)
    queries.staleness_ms(SOURCE.topic, SOURCE.partition)
    assert asked == []
    queries.table(SOURCE.topic, SOURCE.partition, COUNTS.name)
    assert asked == ["query"]
    for task in (SOURCE, STANDBY):
        asked.clear()
        queries.replica(task.topic, task.partition)
        assert asked == ["query"]
    store.close()
    await rig.engine.close()


async def test_a_worker_that_is_late_keeps_its_epoch_open(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    assert rig.engine.behind_s == 0.0
    await rig.feed(batch([b"a"] * 100))
    rig.flow.ends[SOURCE] = 10_100
    rig.clock.advance(0.2)
    assert await rig.commit()
    assert rig.engine.behind_s == pytest.approx(20.0, rel=0.1)
    await rig.feed(batch([b"a"] * 10_000, 100))
    rig.clock.advance(0.2)
    assert await rig.commit()
    assert rig.engine.behind_s == 0.0
    await rig.engine.close()


async def test_a_full_epoch_is_committed_at_once_however_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "OPEN_SIZE_MAX", 3)
    # Nobody waits for an epoch of ten minutes: only one that is full ends before its time.
    rig = Rig(tmp_path, changes={"commit_interval_s": 60.0})
    await rig.start()
    await rig.feed(batch([b"a"]))
    rig.flow.ends[SOURCE] = 1_000_000
    rig.clock.advance(0.1)
    assert await rig.commit()
    assert rig.engine.behind_s > 10_000
    committing = asyncio.create_task(rig.engine.commits.run())
    await rig.feed(batch([b"b", b"c", b"d", b"e"], 1))
    async with asyncio.timeout(PATIENCE_S):
        await rig.feed(batch([b"f"], 5))
    assert await rig.commit()
    committing.cancel()
    assert [epoch.tasks[SOURCE].position for epoch in rig.writer.epochs] == [1, 5, 6]
    await rig.engine.close()


@pytest.mark.parametrize(
    ("records_per_s", "wait_ms"), [(0, 0), (900, 0), (3_000, 3), (20_000, 5), (1_000_000, 5)]
)
def test_the_broker_waits_longer_the_more_there_is_to_fetch(records_per_s: int, wait_ms: int):
    pace = FetchPace()
    assert pace.wait_ms == 0
    for tenth in range(1, 31):
        pace.observe(records_per_s // 10, 100 + tenth / 10)
    assert pace.wait_ms == pytest.approx(wait_ms, abs=1)
    pace.observe(0, 110.0)
    pace.observe(0, 111.0)
    assert pace.wait_ms == 0
