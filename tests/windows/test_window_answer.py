"""Answers: state of a window from the lanes that fed it, statistics from its row."""

from __future__ import annotations

import msgspec
import pytest

from app.engine.chunks import LaneMark
from tables.lanes import EVERY
from tables.windows.answer import counts_since, row_watermark_ms, window_answer
from tables.windows.stats import WindowStats
from tests.windows.driver import MINUTE, TEN, minute_spec

END = TEN + MINUTE


def mark(watermark_ms: int, *, idle: bool = False) -> LaneMark:
    return LaneMark(0, watermark_ms, idle)


@pytest.mark.parametrize(
    ("watermark_ms", "state"),
    [
        (TEN, "open"),
        (END - 1, "open"),
        (END, "closed"),
        (END + 29_999, "closed"),
        (END + 30_000, "final"),
    ],
)
def test_the_state_follows_the_watermark(watermark_ms: int, state: str):
    row = WindowStats(count=1, lanes=("0/",))
    [window] = window_answer(minute_spec(), [(TEN, row)], {"0/": mark(watermark_ms)})
    assert (window.state, window.start, window.end) == (state, TEN, END)


def test_the_slowest_lane_that_is_awake_decides():
    marks = {"0/": mark(30), "1/": mark(20), "1/f": mark(10, idle=True), "2/": mark(5)}
    assert row_watermark_ms(("0/", "1/", "1/f", "7/gone"), marks) == 20
    assert row_watermark_ms(("1/f", "7/gone"), marks) is None
    assert row_watermark_ms(EVERY, marks) == 5


def test_a_row_whose_lanes_are_all_idle_or_gone_is_final():
    row = WindowStats(count=1, lanes=("0/", "1/gone"))
    [window] = window_answer(minute_spec(), [(TEN, row)], {"0/": mark(TEN, idle=True)})
    assert window.state == "final"


def test_an_answer_has_exactly_the_promised_fields_in_milliseconds():
    row = WindowStats(
        3, 1, 2, 5_000, 1_000, 4_000, {383: 1, 526: 1}, 2, ("0/",), 9, 17_000_000, {503: 1}
    )
    [window] = window_answer(minute_spec(codes=True), [(TEN, row)], {}, {TEN: 3})
    assert msgspec.to_builtins(window) == {
        "start": TEN,
        "end": END,
        "state": "final",
        "revision": 3,
        "count": 3,
        "errors": 1,
        "sum": 5.0,
        "avg": 2.5,
        "min": 1.0,
        "max": 4.0,
        "stddev": 1.5,
        "p50": pytest.approx(1.0, rel=0.005),
        "p95": pytest.approx(4.0, rel=0.005),
        "p99": pytest.approx(4.0, rel=0.005),
        "distinct": None,
        "codes": {"503": 1},
        "late": 2,
    }


def test_statistics_of_no_values_are_null():
    [window] = window_answer(minute_spec(), [(TEN, WindowStats(late=1))], {})
    names = ("sum", "avg", "min", "max", "stddev", "p50", "p95", "p99", "distinct", "codes")
    assert [getattr(window, name) for name in names] == [None] * 10
    assert (window.count, window.late, window.state) == (0, 1, "final")


def test_counts_since_leaves_out_windows_that_start_before():
    rows = [
        ("/a", 1, WindowStats(count=1)),
        ("/a", 2, WindowStats(count=2)),
        ("/b", 3, WindowStats(count=4)),
    ]
    assert counts_since(rows, 2) == {"/a": 2, "/b": 4}
