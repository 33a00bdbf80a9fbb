"""Timers: set once, due by lane and in order of time, seen again until they are deleted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.log_events.step import LANE_IDLE_MS, LanesTick
from app.engine.batch import RecordBatch
from app.engine.chunks import LaneMark
from app.engine.driver import Driver
from app.engine.effects import Effects, View
from app.engine.lanes import LIVE, Lanes
from app.engine.reading import Reading
from app.engine.spec import AgentSpec
from tables.lanes import FOREVER, LANES_TABLE, NEVER, LaneTimes, lane_times, lanes_table
from tables.timers import TIMERS_TABLE, Timer, due_timers, parse_timer, set_timers, timers_table

timers = st.builds(
    Timer,
    st.sampled_from(["", "file-1", "file-2"]),
    st.integers(0, (1 << 63) - 1),
    st.binary(max_size=20),
)
FIRED = "fired"
LIMIT = 3


@given(timers, timers)
def test_timer_keys_round_trip_and_order_by_lane_then_time(one: Timer, other: Timer) -> None:
    assert parse_timer(one.key()) == one
    if one.lane == other.lane and one.due_ms != other.due_ms:
        assert (one.key() < other.key()) == (one.due_ms < other.due_ms)


def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    """``lane=time`` moves a lane, ``lane@time`` sets a timer."""
    effects = Effects(applied=len(batch), time_moved=True)
    marks, wanted = {}, []
    for value in batch.values:
        text = (value or b"").decode()
        if "=" in text:
            lane, at = text.split("=")
            marks[f"0/{lane}".encode()] = LaneMark(int(at), int(at), idle=False)
        else:
            lane, at = text.split("@")
            wanted.append(Timer(lane, int(at), text.encode()))
    effects.updates = {LANES_TABLE: marks, TIMERS_TABLE: dict(set_timers(wanted))}
    return effects


def fire(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    due = due_timers(view, lane_times(view, "source"), LIMIT)
    effects = Effects(time_moved=len(due) == LIMIT)
    effects.deletes[TIMERS_TABLE] = [timer.key() for timer in due]
    fired.extend(timer.payload.decode() for timer in due)
    return effects if due else Effects()


fired: list[str] = []


def driver() -> Driver:
    fired.clear()
    agent = AgentSpec(
        topic="source",
        step=step,
        dead_letter_topic="dead",
        late_topic="late",
        tables=(lanes_table(), timers_table()),
        changelog="changelog",
        on_time=fire,
    )
    return Driver([agent], {"source": 1})


def test_a_timer_fires_once_when_its_own_lane_has_come_to_it() -> None:
    made = driver()
    made.feed("source", [b"=5", b"file-1=0", b"@10", b"file-1@3"])
    assert fired == []
    made.feed("source", [b"=9"])
    assert fired == []
    made.feed("source", [b"=10"])
    assert fired == ["@10"]
    made.feed("source", [b"=90", b"file-1=90"])
    assert fired == ["@10", "file-1@3"]
    assert made.rows("source", TIMERS_TABLE) == {}


def test_a_timer_that_is_due_when_it_is_set_fires_without_another_record() -> None:
    made = driver()
    made.feed("source", [b"=50", b"@10"])
    assert fired == ["@10"]


def test_more_timers_than_one_tick_takes_all_fire_in_order_of_time() -> None:
    made = driver()
    made.feed("source", [b"=1", *(b"@%d" % at for at in range(19, 9, -1))])
    made.feed("source", [b"=50"])
    assert fired == [f"@{at}" for at in range(10, 20)]


def test_the_live_lane_has_come_nowhere_until_every_source_partition_was_heard_of() -> None:
    marks = {"0/": LaneMark(1, 70, idle=False), "0/f": LaneMark(1, 30, idle=False)}
    assert LaneTimes.of(marks, 2).of_lane(LIVE) == NEVER
    marks["1/"] = LaneMark(1, 60, idle=False)
    times = LaneTimes.of(marks, 2)
    assert (times.of_lane(LIVE), times.of_lane("f"), times.of_lane("gone")) == (60, 30, FOREVER)
    assert times.of_row(("0/", "0/f")) == times.of_row(("*",)) == 30
    assert times.of_row(("5/gone",)) == times.of_row(()) == FOREVER
    marks["1/"] = LaneMark(2, 60, idle=True)
    assert LaneTimes.of(marks, 2).of_lane(LIVE) == 70


def test_a_partition_without_events_announces_its_live_lane_and_then_its_silence() -> None:
    class Silent:
        lanes = Lanes()
        reading = Reading()

    view, tick = Silent(), LanesTick()
    announced = tick(0, view, 1_000).lanes  # type: ignore[arg-type]
    assert announced is not None
    assert not announced.by_id[LIVE].idle
    view.lanes = announced
    assert tick(0, view, 1_000 + LANE_IDLE_MS) == Effects()  # type: ignore[arg-type]
    view.reading = Reading(0, 1_000 + LANE_IDLE_MS - 1)
    assert tick(0, view, 1_000 + LANE_IDLE_MS) == Effects()  # type: ignore[arg-type]
    view.reading = Reading(0, 1_000 + LANE_IDLE_MS)
    silent = tick(0, view, 1_000 + LANE_IDLE_MS).lanes  # type: ignore[arg-type]
    assert silent is not None
    assert silent.by_id[LIVE].idle
