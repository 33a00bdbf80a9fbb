"""Answers: state of a window from the lanes that fed it, statistics from its row."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.log_events.step import LANE_IDLE_MS
from agents.topics import WINDOW_PARTIALS
from app.engine.chunks import LaneMark
from tables.histogram import bucket
from tables.lanes import EVERY
from tables.windows.answer import counts_since, row_watermark_ms, window_answer
from tables.windows.figures import Quantiles
from tables.windows.finals import (
    FINALS_TABLE,
    Revisions,
    Written,
    final_key,
    window_record,
    written_as,
)
from tables.windows.keys import row_key
from tables.windows.stats import WindowStats, encode_stats, merge_stats
from tables.windows.stored import StoredStats, decode_stored
from tests.windows.closing import Closing
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
    [window] = window_answer(minute_spec(codes=True), [(TEN, row)], {}, {TEN: Written(3, 3, "", 9)})
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


# -- rows that are not decoded, quantiles that are known -----------------------------------------

SPEC = minute_spec(codes=True)
CODES = st.dictionaries(st.integers(100, 599), st.integers(1, 5), max_size=2)


@st.composite
def states(draw: st.DrawFn) -> WindowStats:
    """A state as events make it; some of its values are beyond what 64 bits sum up."""
    values = draw(st.lists(st.integers(-(10**6), 10**6) | st.just(10**18), max_size=8))
    hist: dict[int, int] = {}
    for value in values:
        hist[bucket(value)] = hist.get(bucket(value), 0) + 1
    return WindowStats(
        count=len(values) + draw(st.integers(0, 2)),
        n=len(values),
        sum=sum(values),
        min=min(values, default=None),
        max=max(values, default=None),
        hist=hist,
        late=draw(st.integers(0, 2)),
        lanes=("0/",),
        updated_ms=draw(st.integers(0, 9)),
        sumsq=sum(value * value for value in values),
        codes=draw(CODES),
    )


def written_of(state: WindowStats, **changes: object) -> Written:
    record = window_record(SPEC, "/a", TEN, state, 2, final=True)
    return msgspec.structs.replace(written_as(SPEC, state, record, 9), **changes)


@given(states())
def test_a_row_answers_alike_decoded_or_not_and_with_known_quantiles_or_not(state: WindowStats):
    stored, written = decode_stored(encode_stats(state)), written_of(state)
    plain = {TEN: msgspec.structs.replace(written, quantiles=None)}
    wanted = window_answer(SPEC, [(TEN, state)], {}, plain)
    assert window_answer(SPEC, [(TEN, stored)], {}, plain) == wanted
    assert window_answer(SPEC, [(TEN, stored)], {}, {TEN: written}) == wanted
    assert window_answer(SPEC, [(TEN, state)], {}, {TEN: written}) == wanted


@given(states(), states())
def test_what_came_after_a_window_was_written_is_in_its_quantiles(
    before: WindowStats, more: WindowStats
):
    after = merge_stats(before, more)
    stored = decode_stored(encode_stats(after))
    [fresh] = window_answer(SPEC, [(TEN, after)], {}, {TEN: Written(2, 0, "", 0)})
    assert window_answer(SPEC, [(TEN, stored)], {}, {TEN: written_of(before)}) == [fresh]


@pytest.mark.parametrize("changes", [{"meaning": "another"}, {"fed_ms": 8}, {"count": 4}])
def test_quantiles_of_another_state_are_not_told(changes: dict[str, object]):
    row = WindowStats(1, 0, 1, 1_000, 1_000, 1_000, {383: 1}, updated_ms=9, sumsq=1_000_000)
    written = written_of(row, quantiles=(7.0, 8.0, 9.0))
    [window] = window_answer(SPEC, [(TEN, row)], {}, {TEN: written})
    assert (window.p50, window.p95, window.p99) == (7.0, 8.0, 9.0)
    other = msgspec.structs.replace(written, **changes)
    [window] = window_answer(SPEC, [(TEN, row)], {}, {TEN: other})
    assert (window.p50, window.p95, window.p99) == (1.0, 1.0, 1.0)


def test_a_histogram_nobody_needs_is_not_decoded():
    row = WindowStats(1, 0, 1, 1_000, 1_000, 1_000, {383: 1}, updated_ms=9, sumsq=1_000_000)
    stored = decode_stored(encode_stats(row))
    assert isinstance(stored, StoredStats)
    spoilt = msgspec.structs.replace(stored, encoded_hist=msgspec.Raw(b"\xc1"))
    [window] = window_answer(SPEC, [(TEN, spoilt)], {}, {TEN: written_of(row)})
    assert window.p50 == 1.0
    with pytest.raises(msgspec.DecodeError):
        window_answer(SPEC, [(TEN, spoilt)], {})


def test_the_quantiles_of_a_final_record_are_known_to_queries_until_more_comes():
    spec = minute_spec(name="tumbling")
    windows = Closing(spec)
    event = {"timestamp": TEN, "endpoint": "/a"}
    windows.feed([event | {"latency_ms": float(number)} for number in range(100)])
    windows.finish()

    def known() -> Quantiles | None:
        rows = windows.driver.rows(WINDOW_PARTIALS, spec.name)
        finals = windows.driver.rows(WINDOW_PARTIALS, FINALS_TABLE)
        written = cast("Written", finals[final_key(spec.name, "/a", TEN)])
        return written.quantiles_of(cast("WindowStats", rows[row_key("/a", TEN)]), spec)

    [record] = windows.finals()
    assert known() == (record.p50, record.p95, record.p99)
    windows.feed([event | {"latency_ms": 1_000.0}] * 50, lane="backfill")
    assert known() is None
    windows.driver.advance(LANE_IDLE_MS)
    windows.finish()
    [_, record] = windows.finals()
    assert known() == (record.p50, record.p95, record.p99)
    assert record.p95 == pytest.approx(1_000.0, rel=0.005)


def test_what_was_written_before_quantiles_were_kept_is_read():
    raw = msgspec.msgpack.encode((2, 3, "window-2-x", 9))
    assert Revisions().decode(raw) == Written(2, 3, "window-2-x", 9)
    assert Revisions().decode(raw).quantiles is None
