"""Retention by periods: what is known of each, what goes with it, and that nothing else does."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import count, pairwise
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.log_events.agent import log_events_agent
from agents.topics import LOG_EVENTS, WINDOW_PARTIALS, WINDOWS_FINAL
from agents.windows.agenda import window_of
from agents.windows.agent import windows_agent
from app.engine.epoch import TaskId
from app.engine.lanes import LANE_HEADER
from app.engine.task import Task
from tables.timers import TIMERS_TABLE, parse_timer
from tables.windows.finals import FINALS_TABLE, decode_record
from tables.windows.keys import PERIOD_MS, parse_row_key, period_of, period_rows
from tables.windows.periods import (
    PERIODS_TABLE,
    Period,
    Periods,
    parse_period_key,
    period_key,
    rounded_up,
)
from tests.windows.driver import HOUR, MINUTE, NOW, TEN, event, minute_spec
from tests.windows.test_windows_interleaved import lived
from tests.windows.world import World

TUMBLING = replace(minute_spec(name="tumbling"), retention_ms=4 * HOUR)
HOPPING = minute_spec(
    name="hopping",
    kind="hopping",
    size_ms=5 * HOUR,
    sizes_ms=(5 * HOUR,),
    advance_ms=HOUR,
    retention_ms=6 * HOUR,
)
SPECS = (TUMBLING, HOPPING)
SOON_MS = HOUR
"""Within which what has expired goes, though these tests tick eighteen times an hour."""

periods = st.builds(Period, st.integers(0, 9), st.integers(0, 9), st.integers(-3, 3), st.booleans())


@given(periods, periods, periods)
def test_what_is_known_of_a_period_adds_up_in_any_order(one: Period, two: Period, three: Period):
    merge = Periods().merge
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, Period()) == one
    assert Periods().decode(Periods().encode(one)) == one


@given(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.integers(0, 1 << 50))
def test_period_keys_round_trip(name: str, start_ms: int):
    assert parse_period_key(period_key(name, start_ms)) == (name, period_of(start_ms))


@pytest.mark.parametrize("raw", [b"", bytes(8), b"a" + bytes(8), b"a\0" + bytes(7) + b"\1"])
def test_other_bytes_are_not_the_key_of_a_period(raw: bytes):
    with pytest.raises(ValueError, match="not the row key"):
        parse_period_key(raw)


def committed(task: Task, table: str) -> dict[bytes, object]:
    return dict(task.table(table).range(b"", None, limit=1_000_000))


def check_books(task: Task, names: tuple[str, ...]) -> None:
    """What is known of the periods of a partition is what its rows and timers say."""
    known = committed(task, PERIODS_TABLE)
    timers: Counter[bytes] = Counter()
    for raw in committed(task, TIMERS_TABLE):
        name, _, start_ms = window_of(parse_timer(raw).payload)
        timers[period_key(name, start_ms)] += 1
    assert {key: period.timers for key, period in known.items() if period.timers} == timers  # type: ignore[attr-defined]
    for name in names:
        for raw, stats in committed(task, name).items():
            period = known[period_key(name, parse_row_key(raw)[1])]
            assert period.updated_ms >= stats.updated_ms  # type: ignore[attr-defined]
    for raw, written in committed(task, FINALS_TABLE).items():
        name, _, row = raw.partition(b"\0")
        period = known[period_key(name.decode(), parse_row_key(row)[1])]
        assert period.written_ms >= written.updated_ms  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_known_of_periods_is_true_whatever_fails_or_moves(seed: int):
    story = lived(seed, other_grace=bool(seed % 2))
    for end in (lambda: None, story.world.settle, story.fall_silent):
        end()
        for worker in story.world.running:
            for task_id, task in worker.tasks.items():
                if task_id.topic == WINDOW_PARTIALS:
                    check_books(task, ("tumbling", "hopping"))


def world() -> World:
    agents = [log_events_agent(SPECS), windows_agent(SPECS)]
    made = World(agents, {LOG_EVENTS: 1, WINDOW_PARTIALS: 1}, NOW)
    made.advance(1_000)
    return made


def target(made: World) -> Task:
    return made.running[0].tasks[TaskId(WINDOW_PARTIALS, 0)]


def put(made: World, timestamp: int, key: str, lane: str) -> None:
    headers = ((LANE_HEADER, lane.encode()),) if lane else ()
    made.put(LOG_EVENTS, [event(timestamp, key)], 0, headers)


def fall_idle(made: World) -> None:
    made.settle()
    made.advance(31_000)
    made.advance(1_000)


_PUTS = st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["/a", "/b"])), max_size=6)
_PHASES = st.lists(
    st.tuples(_PUTS, st.sampled_from([30 * MINUTE, 2 * HOUR, 5 * HOUR]), st.integers(0, 99)),
    min_size=2,
    max_size=9,
)


# A window whose panes may have expired lies between those that are written.
_SKIPPED = [
    ([(15, "/b")], 2 * HOUR, 0),
    ([(9, "/a")], 5 * HOUR, 0),
    ([(15, "/b"), (14, "/b")], 30 * MINUTE, 0),
]
_SKIPPED_BEFORE_A_REVISION = [
    ([(15, "/b")], 2 * HOUR, 0),
    ([(9, "/a")], 5 * HOUR, 0),
    ([(10, "/b")], 30 * MINUTE, 0),
    ([(15, "/b"), (14, "/b")], 30 * MINUTE, 0),
]


@settings(max_examples=25)
@example(_SKIPPED)
@example(_SKIPPED_BEFORE_A_REVISION)
@given(_PHASES)
def test_no_final_is_lost_and_no_pane_goes_before_its_retention(
    phases: list[tuple[list[tuple[int, str]], int, int]],
):
    """Old data comes again and again, hours apart; windows are written amid aborts."""
    made = world()
    fed: dict[tuple[str, int], list[int]] = defaultdict(list)
    lanes = count()
    for puts, pause_ms, seed in phases:
        draw = Random(seed)
        for hour, key in puts:
            put(made, TEN - hour * HOUR, key, f"f-{next(lanes)}")  # late in none
            fed[key, TEN - hour * HOUR].append(made.clock.now_ms())
            if draw.random() < 0.3:
                made.pump(TaskId(LOG_EVENTS, 0))
                made.commit(fails=draw.random() < 0.5)
        fall_idle(made)
        for _ in range(pause_ms // (10 * MINUTE)):
            made.clock.advance(10 * MINUTE)
            for _ in range(3):
                made.tick()
                made.commit(fails=draw.random() < 0.1)
            if draw.random() < 0.2:
                made.abort()
            made.settle()
        check_books(target(made), ("tumbling", "hopping"))
        _check_panes(made, fed)
    _check_finals(made, fed)
    for _ in range(12):
        made.clock.advance(5 * HOUR)
        for _ in range(12):
            made.tick()
            made.settle()
    for table in ("tumbling", "hopping", FINALS_TABLE, PERIODS_TABLE, TIMERS_TABLE):
        assert committed(target(made), table) == {}, table


def _check_panes(made: World, fed: dict[tuple[str, int], list[int]]) -> None:
    """A pane has every event of the run (no two further apart than the retention) under way."""
    now_ms = made.clock.now_ms()
    for spec in SPECS:
        rows = {parse_row_key(raw): row for raw, row in committed(target(made), spec.name).items()}
        for (key, moment), times in fed.items():
            run = _runs(times, spec.retention_ms)[-1]
            pane = rows.get((key, moment))
            if run[-1] >= now_ms - spec.retention_ms:
                assert pane is not None
                assert pane.count >= len(run)  # type: ignore[attr-defined]
            elif run[-1] < now_ms - spec.retention_ms - SOON_MS:
                alive = any(
                    each[-1] >= now_ms - spec.retention_ms - SOON_MS
                    for (_, other), each in fed.items()
                    if period_of(other) == period_of(moment)
                )
                assert pane is None or alive


def _check_finals(made: World, fed: dict[tuple[str, int], list[int]]) -> None:
    """Each window was written; with all its events, if none came a retention after another."""
    counts: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for output in made.topics[WINDOWS_FINAL]:
        record = decode_record(output.value or b"")
        counts[record.name, record.key, record.start].append(record.count)
    inside: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for (key, moment), times in fed.items():
        for spec in SPECS:
            first = moment - spec.size_ms + spec.advance_ms
            for start in range(first, moment + 1, spec.advance_ms):
                inside[spec.name, key, start] += times
    retention_ms = {spec.name: spec.retention_ms for spec in SPECS}
    assert counts.keys() >= inside.keys()
    for window, times in inside.items():
        if max(times) - min(times) < retention_ms[window[0]]:
            assert counts[window][-1] == len(times)


def _runs(times: list[int], retention_ms: int) -> list[list[int]]:
    runs = [[times[0]]]
    for before, after in pairwise(times):
        if after - before >= retention_ms:
            runs.append([])
        runs[-1].append(after)
    return runs


def test_an_epoch_that_fails_with_a_drop_leaves_the_rows():
    made = world()
    put(made, TEN, "/a", "f-1")
    fall_idle(made)
    before = committed(target(made), "tumbling")
    made.clock.advance(5 * HOUR)
    made.tick()
    lo, hi = period_rows(TEN)
    (row,) = before
    assert lo <= row < hi
    assert target(made).table("tumbling").get(row) is None  # the next batch sees the drop
    assert committed(target(made), "tumbling") == before  # queries do not, before the commit
    assert made.commit(fails=True)
    assert committed(target(made), "tumbling") == before
    assert target(made).table("tumbling").get(row) == before[row]
    made.tick()
    assert made.commit()
    assert committed(target(made), "tumbling") == {}


def test_an_event_after_the_drop_in_the_same_epoch_begins_a_new_pane():
    made = world()
    for _ in range(3):
        put(made, TEN, "/a", "f-1")
    fall_idle(made)
    made.clock.advance(5 * HOUR)
    made.tick()
    put(made, TEN, "/a", "f-2")
    assert made.pump(TaskId(LOG_EVENTS, 0))
    assert made.commit()
    assert made.pump(TaskId(WINDOW_PARTIALS, 0))
    made.commit()
    (pane,) = committed(target(made), "tumbling").values()
    assert pane.count == 1  # type: ignore[attr-defined]


def test_an_unwritten_window_keeps_the_periods_of_its_panes():
    made = world()
    put(made, TEN, "/a", "f-1")
    put(made, TEN, "/a", "f-2")
    put(made, TEN - HOUR, "/b", "f-1")
    put(made, TEN + 20 * MINUTE, "/clock", "f-1")
    made.settle()
    made.advance(1_000)
    period = period_of(TEN)
    assert period == period_of(TEN - HOUR) == period_of(TEN + 20 * MINUTE)
    task = target(made)
    assert task.table(PERIODS_TABLE).get(period_key("tumbling", TEN)).timers > 0  # type: ignore[union-attr]
    # All lanes are awake, f-2 behind: time passes without a tick of the source.
    made.clock.advance(5 * HOUR)
    effects = task.spec.tick(0, task, made.clock.now_ms())  # type: ignore[misc]
    assert effects.drops == effects.deletes == {}


def test_times_are_rounded_up_to_the_minute():
    assert [rounded_up(ms) for ms in (0, 1, MINUTE, MINUTE + 1)] == [0, MINUTE, MINUTE, 2 * MINUTE]
    assert PERIOD_MS % MINUTE == 0
