"""The edge: aliases, defaults, reasons, and its agreement with the hot path."""

from __future__ import annotations

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.models import rules
from app.models.event import FIELDS, LogEvent, conforms, decode_event, encode_event
from app.models.incoming import FieldError, normalise

ID = "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"
NOW = 1_763_697_243_123


def accept(raw: object) -> LogEvent:
    event = normalise(raw, NOW, lambda: ID)
    assert isinstance(event, LogEvent), event
    return event


def refuse(raw: object) -> dict[str, str]:
    errors = normalise(raw, NOW, lambda: ID)
    assert isinstance(errors, list)
    assert errors
    return {error.field: error.reason for error in errors}


def test_the_least_event_is_its_source() -> None:
    assert accept({"source": "web"}) == LogEvent(
        event_id=ID, timestamp=NOW, ingest_ts=NOW, source="web", service="web"
    )


def test_a39_1_the_documented_body_is_accepted() -> None:
    event = accept(
        {
            "event_id": ID.upper(),
            "source": "web",
            "level": "warning",
            "message": "slow",
            "timestamp": "2025-11-21T03:54:03.123Z",
            "serviceId": "checkout",
            "traceId": "t-1",
            "metadata": {"region": "eu", "retries": 3, "cached": False, "nothing": None},
        }
    )
    assert event.event_id == ID
    assert event.level == "WARN"
    assert event.timestamp == NOW
    assert event.service == "checkout"
    assert event.trace_id == "t-1"
    assert event.metadata == {"region": "eu", "retries": "3", "cached": "false"}


@pytest.mark.parametrize(
    ("field", "alias"), [(f, a) for f, aliases in rules.ALIASES.items() for a in aliases]
)
def test_every_alias_is_read(field: str, alias: str) -> None:
    value = {
        "event_id": ID,
        "timestamp": NOW,
        "level": "WARN",
        "status": 404,
        "latency_ms": 1.5,
        "lat": 1.0,
        "lon": 2.0,
    }.get(field, "x")
    assert getattr(accept({"source": "web", alias: value}), field) == value
    if alias.startswith("geo."):
        nested = accept({"source": "web", "geo": {alias.removeprefix("geo."): value}})
        assert getattr(nested, field) == value


def test_the_canonical_name_wins_over_its_aliases_in_any_order() -> None:
    assert accept({"source": "a", "status_code": 500, "status": 200}).status == 200
    assert accept({"source": "a", "status": 200, "status_code": 500}).status == 200
    assert accept({"source": "a", "id": 7, "eventId": ID}).event_id == ID


def test_ingest_time_is_never_taken_from_the_sender() -> None:
    assert accept({"source": "a", "ingest_ts": 5}).ingest_ts == NOW


def test_numeric_identifiers_become_text_and_amounts_keep_their_digits() -> None:
    event = accept({"source": "a", "userId": 42, "amount": "99.90", "currency": "usd"})
    assert (event.user_id, event.amount, event.currency) == ("42", "99.90", "USD")


@pytest.mark.parametrize("raw", [None, 5, "x", [], [{"source": "a"}], b"{}", 10**4_000])
def test_only_an_object_is_an_event(raw: object) -> None:
    assert list(refuse(raw)) == [""]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", None),
        ("source", ""),
        ("source", "x" * 10_000),
        ("source", "a\x00b"),
        ("source", "\ud800"),
        ("source", ["a"]),
        ("endpoint", "/" + "x" * 10_000),
        ("timestamp", "9999-12-31T23:59:59Z"),
        ("timestamp", NOW + 300_001),
        ("timestamp", -1),
        ("level", "LOUD"),
        ("type", "x" * 1_000_000),
        ("priority", "SOON"),
        ("message", "é" * 40_000),
        ("message", 5),
        ("status", "200"),
        ("status", True),
        ("status", 10**4_000),
        ("latency_ms", -1),
        ("latency_ms", float("nan")),
        ("latency_ms", float("inf")),
        ("latency_ms", 10**400),
        ("value", float("-inf")),
        ("amount", 99.99),
        ("amount", -5),
        ("amount", "NaN"),
        ("currency", "EURO"),
        ("event_id", "17"),
        ("event_id", 17),
        ("user_id", True),
        ("metadata", []),
        ("metadata", {"a": {"b": 1}}),
        ("metadata", {"a" * 10_000: "x"}),
        ("metadata", {"": "x"}),
        ("metadata", {"a": "\udfff"}),
        ("metadata", {str(i): "x" for i in range(65)}),
    ],
)
def test_a_broken_field_is_named_with_a_reason(field: str, value: object) -> None:
    errors = refuse({"source": "web"} | {field: value})
    assert list(errors) == [field]
    assert errors[field]
    assert len(errors[field]) < 300


def test_every_broken_field_is_named_at_once() -> None:
    assert set(refuse({"status": 1, "lat": 100})) == {"source", "status", "lat"}


def test_an_event_too_large_for_a_kafka_record_is_refused() -> None:
    many = {str(i): "\x01" * 4_096 for i in range(64)}
    assert list(refuse({"source": "a", "metadata": many})) == [""]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, NOW)
    | st.floats()
    | st.text(max_size=20)
    | st.characters(categories=["Cs"])
    | st.sampled_from(["INFO", "metric", ID, "2025-01-01T00:00:00Z", "HIGH", "1.50", "EUR"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["country", "lat"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
names = st.sampled_from([*FIELDS, "geo", "junk", *(a for al in rules.ALIASES.values() for a in al)])
objects = st.dictionaries(names, values, max_size=8)


@settings(max_examples=400)
@given(objects | objects.map(lambda o: {"source": "web"} | o) | values)
def test_whatever_is_accepted_survives_the_hot_path_and_nothing_raises(raw: object) -> None:
    event = normalise(raw, NOW, lambda: ID)
    if isinstance(event, LogEvent):
        assert decode_event(encode_event(event)) == event
        assert conforms(event)
    else:
        assert event
        assert all(isinstance(error, FieldError) for error in event)


text = st.text(string.ascii_letters + "é/-", min_size=1, max_size=12)
numbers = st.floats(0, 80)
optional: dict[str, st.SearchStrategy[Any]] = {
    "level": st.sampled_from(rules.LEVELS),
    "type": st.sampled_from(sorted(rules.TYPES)),
    "priority": st.sampled_from(rules.PRIORITIES),
    "status": st.integers(100, 599),
    "amount": st.from_regex(rules.AMOUNT_PATTERN, fullmatch=True),
    "currency": st.sampled_from(["EUR", "USD"]),
    "message": st.text(max_size=50),
    "metadata": st.dictionaries(text, st.text(max_size=10), max_size=4),
    **dict.fromkeys(("latency_ms", "lat", "lon", "value"), numbers),
    **dict.fromkeys(
        ("endpoint", "method", "user_id", "ip", "country", "trace_id", "metric_name"), text
    ),
}
canonical = st.fixed_dictionaries(
    {
        "event_id": st.uuids().map(str),
        "timestamp": st.integers(0, NOW),
        "ingest_ts": st.just(NOW),
        "source": text,
        "service": text,
    },
    optional=optional,
)


@given(canonical)
def test_a_canonical_event_normalises_to_itself(fields: dict[str, Any]) -> None:
    event = decode_event(msgspec.json.encode(fields))
    assert conforms(event)
    assert accept(msgspec.to_builtins(event)) == event
