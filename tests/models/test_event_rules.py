"""Rules of single values, and the hot path's own checks."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import rules
from app.models.event import DECODE_ERRORS, FIELDS, conforms, decode_event, encode_event
from app.models.incoming import IncomingEvent, NotJsonError, parse_json

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Hypothesis adds the zone
ID = "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"
CANONICAL = {"event_id": ID, "timestamp": 1_763_697_243_123, "source": "shop", "service": "web"}


def raw(**fields: object) -> bytes:
    return json.dumps(CANONICAL | fields).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (1_763_697_243_123, 1_763_697_243_123),
        (1_763_697_243_123.9, 1_763_697_243_123),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1_500),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T00:00:00.000999Z", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("9999-12-31T23:59:59.999Z", rules.TIMESTAMP_MAX),
    ],
)
def test_timestamps_are_read_as_epoch_milliseconds(value: object, expected: int) -> None:
    assert rules.parse_timestamp(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        -1,
        10**400,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        "",
        "1763697243123",
        "2026-01-31T12:00:00",
        "2026-02-30T12:00:00Z",
        "1969-12-31T23:59:59Z",
        "2026-01-31T12:00:00Z" * 1_000,
        "\ud800",
    ],
)
def test_what_is_no_timestamp_is_refused_with_a_reason(value: object) -> None:
    with pytest.raises(rules.RuleError):
        rules.parse_timestamp(value)


@given(st.datetimes(min_value=EPOCH, timezones=st.just(UTC)))
def test_a_formatted_moment_reads_back_to_its_millisecond(moment: datetime) -> None:
    floor = moment.replace(microsecond=moment.microsecond // 1_000 * 1_000)
    assert rules.parse_timestamp(moment.isoformat()) == round(floor.timestamp() * 1_000)


def test_an_event_may_be_five_minutes_ahead_and_no_more() -> None:
    now = 1_000_000
    assert rules.check_not_future(now + 300_000, now) == now + 300_000
    with pytest.raises(rules.RuleError):
        rules.check_not_future(now + 300_001, now)


@pytest.mark.parametrize(
    ("word", "level"),
    [("info", "INFO"), ("Warning", "WARN"), ("CRITICAL", "FATAL"), (" error ", "ERROR")],
)
def test_levels_have_aliases_in_any_case(word: str, level: str) -> None:
    assert rules.canonical_level(word) == level


def test_medium_priority_is_normal() -> None:
    assert rules.canonical_priority("medium") == "NORMAL"


@given(st.text(), st.integers(0, 300))
def test_clipping_keeps_the_longest_head_that_fits(text: str, limit: int) -> None:
    clipped = rules.clip_utf8(text, limit)
    assert text.startswith(clipped)
    assert len(clipped.encode()) <= limit
    if clipped != text:
        assert len(text[: len(clipped) + 1].encode()) > limit


@pytest.mark.parametrize(
    "broken",
    [
        {"timestamp": -1},
        {"timestamp": 10**30},
        {"timestamp": "2026-01-01T00:00:00Z"},
        {"event_id": "x"},
        {"service": ""},
        {"service": "x" * 10_000},
        {"endpoint": "/" * 10_000},
        {"level": "WARNING"},
        {"type": "unknown"},
        {"status": 99},
        {"status": 600},
        {"status": "200"},
        {"latency_ms": -0.1},
        {"latency_ms": 1e10},
        {"latency_ms": float("nan")},
        {"latency_ms": float("inf")},
        {"lat": 90.1},
        {"lon": -180.1},
        {"amount": 99.99},
        {"amount": "-1"},
        {"amount": "1\n"},
        {"currency": "usd"},
        {"metadata": {"a": 1}},
        {"metadata": {str(i): "" for i in range(65)}},
        {"metadata": {"k": "v" * 4_097}},
    ],
)
def test_the_hot_path_refuses_what_breaks_a_rule(broken: dict[str, object]) -> None:
    with pytest.raises(DECODE_ERRORS):
        decode_event(raw(**broken))


@pytest.mark.parametrize(
    "broken",
    [
        {"event_id": "3F2B6C1E-8D4A-4B57-9A63-0C5D1E7F2A90"},
        {"endpoint": "/a\x00b"},
        {"service": "a\nb"},
        {"message": "é" * 40_000},
    ],
)
def test_what_the_hot_path_leaves_out_is_not_conforming(broken: dict[str, object]) -> None:
    assert conforms(decode_event(raw()))
    assert not conforms(decode_event(raw(**broken)))


def test_unknown_fields_are_ignored_and_none_is_not_written() -> None:
    event = decode_event(raw(unheard_of={"a": [1]}))
    assert json.loads(encode_event(event)) == CANONICAL


GARBAGE = [
    b"",
    b"\xff\xfe",
    b'"\\ud800"',
    b"NaN",
    b"1e999",
    b"1" * 5_000,
    b"[" * 300_000,
    b'{"source":' * 100_000,
    b'{"x":' + b"[" * 300_000 + b"]" * 300_000 + b"}",
    b'{"source":"\x00"}',
    b"{} {}",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_an_error_of_the_named_kinds(garbage: bytes) -> None:
    with pytest.raises(DECODE_ERRORS):
        decode_event(garbage)
    with pytest.raises(NotJsonError):
        parse_json(garbage)


@given(st.binary(max_size=200))
def test_bytes_decode_or_fail_in_the_named_ways(data: bytes) -> None:
    with contextlib.suppress(*DECODE_ERRORS):
        decode_event(data)
    with contextlib.suppress(NotJsonError):
        parse_json(data)


def test_both_readers_know_the_same_fields() -> None:
    assert set(IncomingEvent.model_fields) == set(FIELDS)
    assert set(rules.ALIASES) <= set(FIELDS)
