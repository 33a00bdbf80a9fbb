"""Timers: set once, due by lane and in order of time, seen again until they are deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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
from tables.agenda import Agenda
from tables.lanes import FOREVER, LANES_TABLE, NEVER, LaneTimes, lane_times, lanes_table
from tables.progress import PROGRESS_TABLE, progress_table
from tables.timers import TIMERS_TABLE, Timer, parse_timer, timers_table

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
    marks, agenda = {}, Agenda(view)
    for value in batch.values:
        text = (value or b"").decode()
        if "=" in text:
            lane, at = text.split("=")
            marks[f"0/{lane}".encode()] = LaneMark(int(at), int(at), idle=False)
        else:
            lane, at = text.split("@")
            agenda.put(Timer(lane, int(at), text.encode()))
    effects.updates = {
        LANES_TABLE: marks,
        TIMERS_TABLE: {**agenda.wanted},
        PROGRESS_TABLE: {**agenda.changes()},
    }
    return effects


def fire(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    times, agenda, effects = lane_times(view, "source"), Agenda(view), Effects()
    keys: list[bytes] = []
    for lane in sorted(times.watermarks):
        due = agenda.due(lane, times, LIMIT)
        agenda.done(lane, due.timers, due.upto_ms)
        keys += [timer.key() for timer in due.timers]
        fired.extend(timer.payload.decode() for timer in due.timers)
        effects.time_moved |= not due.whole
    effects.deletes[TIMERS_TABLE] = keys
    effects.updates[PROGRESS_TABLE] = {**agenda.changes()}
    return effects


fired: list[str] = []


def driver() -> Driver:
    fired.clear()
    agent = AgentSpec(
        topic="source",
        step=step,
        dead_letter_topic="dead",
        late_topic="late",
        tables=(lanes_table(), timers_table(), progress_table()),
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


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("=@"), st.integers(0, 40)), min_size=1, max_size=8),
        max_size=15,
    )
)
def test_every_timer_fires_whenever_it_is_set_and_however_time_moves(
    batches: list[list[tuple[str, int]]],
) -> None:
    made = driver()
    known: set[str] = set()
    for number, batch in enumerate(batches):
        made.feed("source", [f"{kind}{at}".encode() for kind, at in batch])
        known |= {f"@{at}" for kind, at in batch if kind == "@"}
        made.feed("source", [b"=%d" % (number * 3)])
    made.feed("source", [b"=99"])
    assert set(fired) == known
    assert made.rows("source", TIMERS_TABLE) == {}


def test_a_scan_begins_where_the_last_one_ended() -> None:
    class Scans(dict[bytes, bool]):
        begins: ClassVar[list[bytes]] = []

        def range(self, lo: bytes, hi: bytes | None, *, limit: int) -> list[tuple[bytes, bool]]:  # noqa: ARG002
            self.begins.append(lo)
            return [(key, True) for key in sorted(self) if key >= lo][:limit]

    made, table = driver(), Scans()
    made.feed("source", [b"@%d" % at for at in range(10, 20)])
    made.feed("source", [b"=30"])
    rows = made.rows("source", PROGRESS_TABLE)

    class After:
        def table(self, name: str) -> Mapping[bytes, object]:
            return rows if name == PROGRESS_TABLE else table

    due = Agenda(After()).due(LIVE, LaneTimes({LIVE: 40}), LIMIT)  # type: ignore[arg-type]
    assert due.timers == []
    assert table.begins == [Timer(LIVE, 19, b"").key()]


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
