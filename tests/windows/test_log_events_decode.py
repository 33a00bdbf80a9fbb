"""Decoding of a batch: every record is an event or a reject, and costs only itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.log_events import decode
from agents.log_events.decode import REASON_MAX, EventReader
from app.engine.effects import Reject
from app.engine.lanes import LANE_HEADER, LIVE, Lane, Lanes
from app.models.event import LogEvent
from tests.windows.driver import HOUR, NOW, TEN, WindowsDriver, batch_of, event, interleaved

read_events = EventReader(())

YEAR_9999 = 253_402_300_799_999

GARBAGE: dict[str, bytes | None] = {
    "no value": None,
    "empty": b"",
    "not JSON": b"hello",
    "cut": event(TEN)[:-1],
    "invalid UTF-8": event(TEN, "/gar").replace(b"/gar", b"/\xff\xfe."),
    "half a surrogate": event(TEN, "/gar").replace(b"/gar", b"\\ud800"),
    "NaN": event(TEN, latency_ms=123.5).replace(b"123.5", b"NaN"),
    "infinite": event(TEN, latency_ms=123.5).replace(b"123.5", b"1e999"),
    "negative latency": event(TEN, latency_ms=123.5).replace(b"123.5", b"-1"),
    "deep": b"[" * 500_000,
    "deep in a field": b'{"x":' * 100_000,
    "two MiB": event(TEN).replace(b"shop", b"s" * (2 << 20)),
    "a million elements": b"[" + b"0," * 999_999 + b"0]",
    "key of 10 000 characters": event(TEN, "/" * 10_000),
    "year 9999": event(YEAR_9999),
    "an array": b"[" + event(TEN) + b"]",
    "null": b"null",
}


def test_events_keep_their_place_and_their_stream_time():
    batch = batch_of([event(TEN + 5), event(TEN + 3), event(TEN + 9)], NOW)
    read = read_events(batch, Lanes({LIVE: Lane(TEN + 4, NOW - 1)}))
    assert [at - TEN for at in read.events.columns["timestamp"]] == [5, 3, 9]
    assert list(read.events.stream_time_ms) == [TEN + 5, TEN + 5, TEN + 9]
    assert (list(read.index), list(read.events.lanes)) == ([0, 1, 2], [LIVE] * 3)
    assert (read.moved, list(read.rejects)) == ({LIVE: (TEN + 9, NOW)}, [])


def test_stream_time_goes_on_from_the_watermark_of_each_lane():
    lanes = Lanes({LIVE: Lane(TEN + 7, 1), "f": Lane(TEN - HOUR, 1)})
    live = batch_of([event(TEN), event(TEN + 8)], [NOW, NOW + 2])
    shipped = batch_of([event(5), event(TEN)], [NOW + 1, NOW + 3], lane="f")
    read = read_events(interleaved(live, shipped), lanes)
    assert list(read.events.lanes) == [LIVE, "f", LIVE, "f"]
    assert list(read.events.stream_time_ms) == [TEN + 7, TEN - HOUR, TEN + 8, TEN]
    assert read.moved == {LIVE: (TEN + 8, NOW + 2), "f": (TEN, NOW + 3)}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_rejected_with_a_reason(name: str):
    read = read_events(batch_of([GARBAGE[name]], NOW), Lanes())
    [reject] = read.rejects
    assert (reject.index, reject.kind) == (0, "VALIDATION")
    assert 0 < len(reject.reason) <= REASON_MAX
    assert (list(read.events.columns["timestamp"]), dict(read.moved)) == ([], {})


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (event(TEN, latency_ms=123.5).replace(b"123.5", b'"fast"'), "latency_ms"),
        (event(TEN).replace(b'"timestamp"', b'"time"'), "timestamp"),
        (event(TEN, "/" * 10_000), "endpoint"),
        (event(TEN, metadata={"a": "b"}).replace(b'"b"', b"1"), "metadata"),
        (event(NOW + 300_001), "timestamp"),
        (b"hello", ""),
    ],
)
def test_a_reject_names_the_field(value: bytes, field: str):
    [reject] = read_events(batch_of([value], NOW), Lanes()).rejects
    assert reject.field == field


def test_five_minutes_ahead_of_its_ingest_is_the_limit():
    read = read_events(batch_of([event(NOW + 300_000), event(NOW + 300_001)], NOW), Lanes())
    assert [reject.index for reject in read.rejects] == [1]
    assert read.moved == {LIVE: (NOW + 300_000, NOW)}


def named(event: LogEvent) -> str:
    """What a step might make of an event."""
    return f"{event.endpoint}@{event.timestamp}"


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 9).map(lambda n: event(TEN + n, f"/{n}")), st.just(b"{")),
            st.sampled_from(["", "f", "g"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 13),
)
def test_a_batch_reads_alike_in_blocks_of_any_size(records: list[tuple[bytes, str]], size: int):
    values, lanes = zip(*records, strict=True)
    batch, read = batch_of(values, NOW), EventReader(("endpoint", named))
    batch = replace(batch, headers=[((LANE_HEADER, lane.encode()),) for lane in lanes])
    whole = read(batch, Lanes())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decode, "BLOCK", size)
        assert read(batch, Lanes()) == whole
    assert (
        len(whole.events.columns["endpoint"])
        == len(whole.index)
        == len(whole.events.stream_time_ms)
    )
    assert whole.events.columns[named] == [
        f"{name}@{at}"
        for name, at in zip(
            whole.events.columns["endpoint"], whole.events.columns["timestamp"], strict=True
        )
    ]


@given(
    st.lists(
        st.one_of(st.sampled_from(list(GARBAGE.values())), st.binary(max_size=30)), max_size=6
    ),
    st.randoms(use_true_random=False),
)
def test_garbage_never_changes_a_window(garbage: list[bytes | None], random):
    valid = [event(TEN + i * 7_000, latency_ms=float(i)) for i in range(20)]
    mixed: list[bytes | None] = list(valid)
    for piece in garbage:
        mixed.insert(random.randrange(len(mixed) + 1), piece)
    clean, dirty = WindowsDriver(), WindowsDriver()
    clean.feed(valid)
    effects = dirty.feed(mixed)
    assert dirty.all_rows() == clean.all_rows()
    assert dirty.marks() == clean.marks()
    assert [reject.index for reject in effects.rejects] == [
        i for i, value in enumerate(mixed) if value not in valid
    ]
    assert effects.applied == len(valid)


def test_a_batch_of_garbage_alone_changes_nothing():
    driver = WindowsDriver()
    effects = driver.feed([b"x", None])
    assert (effects.lanes, effects.gathered, effects.applied) == (None, None, 0)
    assert effects.rejects[1] == Reject(1, "the record has no value")
