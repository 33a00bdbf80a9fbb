"""Final records: one for each window and revision, the same whatever the order of arrival."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.topics import WINDOW_PARTIALS
from agents.windows.agent import windows_agent
from agents.windows.closing import ClosingTick
from app.engine.driver import Driver
from app.engine.effects import Output
from tables.progress import PROGRESS_TABLE
from tables.timers import TIMERS_TABLE
from tables.windows.finals import WindowRecord
from tests.windows.closing import Closing, Event, counted, document, said
from tests.windows.driver import MINUTE, TEN, at, minute_spec

TUMBLING = minute_spec(name="tumbling", codes=True)
HOPPING = minute_spec(
    name="hopping", kind="hopping", size_ms=5 * MINUTE, advance_ms=MINUTE, codes=True
)
BOTH = (TUMBLING, HOPPING)


def hit(timestamp: int, endpoint: str = "/a", latency_ms: float = 5.0, status: int = 200) -> Event:
    return {
        "timestamp": timestamp,
        "endpoint": endpoint,
        "latency_ms": latency_ms,
        "status": status,
    }


def test_a_window_is_written_once_every_partition_has_passed_its_end_and_grace():
    windows = Closing(TUMBLING)
    windows.feed([hit(TEN)])
    windows.clock(at("10:01:30"), 0, 1)
    windows.clock(at("10:01:29.999"), 2)
    assert windows.finals() == []
    windows.clock(at("10:01:30"), 2)
    assert [(r.key, r.start, r.revision) for r in windows.finals()] == [("/a", TEN, 1)]
    windows.finish()
    assert len(windows.finals()) == 1


def test_a_final_record_has_exactly_the_promised_fields():
    spec = replace(TUMBLING, distinct="user_id")
    windows = Closing(spec)
    windows.feed([hit(TEN, latency_ms=10.0) | {"user_id": "u"}, hit(TEN, "/a", 20.0, 503)])
    windows.clock(at("10:01:30"))
    windows.feed([hit(TEN)])
    windows.finish()
    [output] = windows.outputs()
    assert output.key == b"tumbling//a"
    assert dict(output.headers)["origin"].startswith(b"window-partials/")  # type: ignore[union-attr]
    assert document(output) == {
        "id": hashlib.sha256(f"tumbling|/a|{TEN}|1".encode()).hexdigest()[:32],
        "name": "tumbling",
        "key": "/a",
        "start": TEN,
        "end": TEN + MINUTE,
        "revision": 1,
        "count": 2,
        "errors": 1,
        "sum": 30.0,
        "avg": 15.0,
        "min": 10.0,
        "max": 20.0,
        "p50": pytest.approx(10.0, rel=0.005),
        "p95": pytest.approx(20.0, rel=0.005),
        "p99": pytest.approx(20.0, rel=0.005),
        "stddev": 5.0,
        "distinct": 1,
        "late": 0,
        "codes": {"200": 1, "503": 1},
    }


def test_figures_that_do_not_exist_are_null():
    windows = Closing(replace(TUMBLING, codes=False))
    windows.feed([hit(TEN) | {"latency_ms": None}])
    windows.finish()
    [found] = map(document, windows.outputs())
    none = ("sum", "avg", "min", "max", "p50", "p95", "p99", "stddev", "distinct", "codes")
    assert [found[name] for name in none] == [None] * len(none)
    assert found["count"] == 1


def test_a_late_event_alone_makes_no_final_and_no_revision():
    windows = Closing(TUMBLING)
    windows.feed([hit(TEN)])
    windows.clock(at("10:05:00"))
    windows.feed([hit(TEN), hit(at("10:01:00"), "/late-only")])
    windows.finish()
    assert [(r.key, r.revision, r.late) for r in windows.finals()] == [("/a", 1, 0)]


def test_a44_2_and_a46_4_ten_errors_in_a_hundred_are_a_tenth_of_all_five_windows():
    windows = Closing(HOPPING)
    statuses = [404] * 3 + [503] * 7 + [200] * 90
    windows.feed([hit(TEN + i * 100, status=status) for i, status in enumerate(statuses)])
    windows.finish()
    finals = windows.finals()
    assert [r.start for r in finals] == [TEN - minutes * MINUTE for minutes in (4, 3, 2, 1, 0)]
    for record in finals:
        assert record.codes == {"200": 90, "404": 3, "503": 7}
        assert (record.count, record.errors) == (100, 7)
        rates = [(record.codes["404"] + record.codes["503"]) / record.count]
        rates += [record.codes[code] / record.count for code in ("404", "503")]
        assert rates == [0.10, 0.03, 0.07]


def test_sliding_windows_and_their_panes_are_never_final():
    trend = minute_spec(
        name="trend", kind="sliding", sizes_ms=(MINUTE,), advance_ms=10_000, global_row=True
    )
    windows = Closing(trend, TUMBLING)
    windows.feed([hit(TEN)])
    windows.finish()
    assert {r.name for r in windows.finals()} == {"tumbling"}


def test_windows_of_keys_that_fell_silent_close_with_the_traffic_of_others():
    windows = Closing(HOPPING)
    windows.feed([hit(TEN, "/silent")])
    windows.feed([hit(at("10:30:00"), f"/{n}") for n in range(3)], 1)
    windows.clock(at("10:30:00"))
    assert [r.start for r in windows.finals()] == [TEN - n * MINUTE for n in (4, 3, 2, 1, 0)]


def test_windows_of_lanes_that_fell_idle_close_and_their_waking_makes_a_revision():
    windows = Closing(HOPPING)
    windows.feed([hit(TEN)])
    windows.driver.advance(29_000)
    assert windows.finals() == []
    windows.driver.advance(2_000)
    windows.driver.advance(1_000)
    assert {(r.start - TEN) // MINUTE: r.revision for r in windows.finals()} == dict.fromkeys(
        range(-4, 1), 1
    )
    windows.feed([hit(at("10:01:00"))])  # a pane of its own, in four of the five windows
    windows.feed([hit(at("10:00:59"))], 1)
    windows.finish()
    latest = windows.latest()
    assert said(latest) == counted([HOPPING], [hit(TEN), hit(at("10:01:00")), hit(at("10:00:59"))])
    assert {key[2]: r.revision for key, r in latest.items()} == {
        TEN + n * MINUTE: 2 if n < 1 else 1 for n in range(-4, 2)
    }


def test_a_partial_for_a_final_window_makes_the_next_revision_once_per_epoch():
    windows = Closing(HOPPING)
    windows.feed([hit(TEN)])
    windows.clock(at("10:30:00"))
    assert len(windows.finals()) == 5
    windows.feed([hit(TEN)] * 3 + [hit(at("10:02:00"))] * 2, 1, lane="file-1")
    windows.feed([hit(at("10:59:00"), "/clock")], 1, lane="file-1")
    windows.finish()
    latest = {key: r for key, r in windows.latest().items() if key[1] == "/a"}
    events = [hit(TEN)] * 4 + [hit(at("10:02:00"))] * 2
    assert said(latest) == counted([HOPPING], events)
    assert {key[2]: r.revision for key, r in latest.items()} == {
        TEN + n * MINUTE: 2 if n < 1 else 1 for n in range(-4, 3)
    }


def test_a_window_waits_for_every_lane_that_fed_it():
    windows = Closing(TUMBLING)
    windows.feed([hit(TEN)])
    windows.feed([hit(TEN)], 1, lane="file-1")
    windows.clock(at("10:30:00"))
    assert windows.finals() == []
    windows.feed([hit(at("10:01:30"), "/clock")], 1, lane="file-1")
    windows.driver.advance(1_000)
    assert [(r.key, r.count) for r in windows.finals()] == [("/a", 2)]


def test_an_old_file_is_closed_by_its_own_time_while_live_traffic_is_far_ahead():
    windows = Closing(TUMBLING)
    windows.clock(at("11:30:00"))
    for minute in range(3):
        windows.feed([hit(TEN + minute * MINUTE)], 1, lane="file-1")
        windows.feed([hit(TEN + minute * MINUTE + 1)], 2, lane="file-1")
    assert [r.start for r in windows.finals()] == [TEN]
    assert windows.finals()[0].count == 2
    for _ in range(32):
        windows.driver.advance(1_000)
    assert {key[2]: r.count for key, r in windows.latest().items()} == {
        TEN: 2,
        TEN + MINUTE: 2,
        TEN + 2 * MINUTE: 2,
    }


def test_more_windows_than_a_tick_closes_all_close_in_order_of_time():
    windows = Closing(TUMBLING, targets=1)
    task = next(t for t in windows.driver.tasks.values() if t.id.topic == WINDOW_PARTIALS)
    task.spec = replace(windows_agent((TUMBLING,)), on_time=ClosingTick((TUMBLING,), closed_max=7))
    windows.feed([hit(TEN + n // 50 * MINUTE, f"/{n}") for n in range(100)])
    windows.clock(at("10:30:00"))
    finals = windows.finals()
    assert len({r.key for r in finals}) == len(finals) == 100
    assert [r.start for r in finals] == sorted(r.start for r in finals)


def test_a_hopping_window_with_gaps_is_closed_wherever_it_holds_an_event():
    windows = Closing(HOPPING)
    events = [hit(TEN + minute * MINUTE) for minute in (0, 4, 12, 13, 30)]
    windows.feed(events[:3])
    windows.feed(events[3:], 1)
    windows.finish()
    assert said(windows.latest()) == counted([HOPPING], events)
    assert {r.revision for r in windows.finals()} == {1}


def test_timers_are_all_gone_once_everything_is_final():
    windows = Closing(*BOTH)
    windows.feed([hit(TEN + n * 1_000, f"/{n % 3}") for n in range(900)], 1)
    windows.finish()
    assert windows.driver.rows(WINDOW_PARTIALS, TIMERS_TABLE) == {}
    assert windows.driver.rows(WINDOW_PARTIALS, PROGRESS_TABLE)


def test_a_window_of_another_meaning_is_written_anew_under_the_next_revision():
    windows = Closing(TUMBLING)
    windows.feed([hit(TEN)])
    windows.finish()
    before = windows.finals()
    other = replace(TUMBLING, key="service")
    changed = Closing(other)
    _carry_over(windows.driver, changed.driver)
    changed.feed([hit(TEN) | {"service": "/a"}])
    changed.finish()
    assert [(r.key, r.revision) for r in changed.finals()] == [("/a", 2)]
    assert before[0].id != changed.finals()[0].id


def _carry_over(old: Driver, new: Driver) -> None:
    for task_id, store in old._stores.items():
        for family, rows in store.families.items():
            if family.startswith("final-"):
                new._stores[task_id].write(family, rows)


arrivals = st.lists(
    st.tuples(
        st.integers(0, 12 * MINUTE),  # event time
        st.integers(0, 29_999),  # delay, below the grace
        st.sampled_from(["/a", "/b", "/ü"]),
        st.integers(0, 1_000).map(float),
        st.sampled_from([200, 404, 503]),
        st.integers(0, 2),  # partition
    ),
    max_size=40,
)
Arrival = tuple[int, int, str, float, int, int]


def run(order: list[Arrival], sizes: list[int], targets: int, pauses: set[int]) -> Closing:
    """Feed in this order, in batches of these sizes, with pauses of a second after some."""
    windows = Closing(*BOTH, targets=targets)
    first = number = 0
    while first < len(order):
        chunk = order[first : first + sizes[number % len(sizes)]]
        for partition in range(3):
            events = [hit(TEN + a[0], a[2], a[3], a[4]) for a in chunk if a[5] == partition]
            windows.feed(events, partition)
        if number in pauses:
            windows.driver.advance(1_000)
        first, number = first + len(chunk), number + 1
    windows.finish()
    return windows


@settings(max_examples=60)
@given(
    arrivals,
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sets(st.integers(0, 20)),
    st.integers(1, 3),
)
def test_a46_6_a46_8_arrival_order_batches_and_workers_change_no_final_record(
    arrived: list[Arrival], sizes: list[int], pauses: set[int], targets: int
):
    events = [hit(TEN + a[0], a[2], a[3], a[4]) for a in arrived]
    expected = counted(BOTH, events)
    in_order = run(sorted(arrived, key=lambda a: a[0]), [40], 2, set())
    shuffled = run(sorted(arrived, key=lambda a: a[0] + a[1]), sizes, targets, pauses)
    assert said(in_order.latest()) == expected
    assert sorted(in_order.finals(), key=order_of) == sorted(shuffled.finals(), key=order_of)
    assert all(record.revision == 1 for record in shuffled.finals())


def order_of(record: WindowRecord) -> tuple[str, str, int]:
    return record.name, record.key, record.start


@settings(max_examples=60)
@given(
    st.lists(st.tuples(arrivals, st.sampled_from([None, "f-1", "f-2"])), max_size=6),
    st.lists(st.sampled_from([1_000, 31_000]), max_size=6),
)
def test_backfills_idleness_and_revisions_end_with_the_right_figures(
    parts: list[tuple[list[Arrival], str | None]], waits: list[int]
):
    windows = Closing(*BOTH)
    taken: list[Event] = []
    for number, (part, lane) in enumerate(parts):
        for partition in range(3):
            events = [
                hit(TEN + a[0], a[2], a[3], a[4])
                for a in sorted(part, key=lambda a: a[0] + a[1])
                if a[5] == partition
            ]
            before = len(windows.driver.topics["log-events-late"])
            windows.feed(events, partition, lane)
            gone = windows.driver.topics["log-events-late"][before:]
            taken += _kept(events, gone)
        if number < len(waits):
            windows.driver.advance(waits[number])
    windows.finish()
    for _ in range(33):
        windows.driver.advance(1_000)
    assert said(windows.latest()) == counted(BOTH, taken)


def _kept(events: list[Event], gone: list[Output]) -> list[Event]:
    """Events less those that were late (for each late record one like it)."""
    left = list(events)
    for each in gone:
        record = document(each)
        left.remove(
            {name: record[name] for name in ("timestamp", "endpoint", "latency_ms", "status")}
        )
    return left


def test_an_hour_of_minutes_closes_in_order():
    windows = Closing(TUMBLING)
    for minute in range(60):
        windows.feed([hit(TEN + minute * MINUTE)])
        windows.clock(TEN + minute * MINUTE + 30_000)
    assert [r.start for r in windows.finals()] == [TEN + n * MINUTE for n in range(59)]
