"""Shipper topics to log-events: what is passed on, what is re-made, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.normalise.step import normalise_step
from app.engine.batch import Headers, RecordBatch
from app.engine.effects import Effects, TableView
from app.engine.lanes import Lanes
from app.models.event import conforms, decode_event

INGEST = 1_763_697_243_200
ID = "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"
CANONICAL = {
    "event_id": ID,
    "timestamp": INGEST - 10,
    "source": "shop",
    "service": "web",
    "endpoint": "/é",
    "ingest_ts": INGEST - 5,
}


class NoTables:
    """A partition without tables or lanes."""

    lanes = Lanes()

    def table(self, name: str) -> TableView:
        raise LookupError(name)


def run(values: Sequence[bytes | None], headers: Headers = (), offset: int = 40) -> Effects:
    count = len(values)
    batch = RecordBatch(
        "application-logs",
        2,
        range(offset, offset + count),
        [INGEST] * count,
        [None] * count,
        values,
        [headers] * count,
    )
    return normalise_step("log-events")(batch, NoTables(), INGEST + 3_600_000)


def record(**fields: Any) -> bytes:
    return json.dumps(CANONICAL | fields).encode()


def test_a_canonical_record_is_passed_on_byte_for_byte_keyed_by_its_service() -> None:
    raw = json.dumps(CANONICAL, ensure_ascii=False, indent=1).encode()
    (output,) = run([raw]).outputs
    assert (output.topic, output.key, output.value) == ("log-events", b"web", raw)
    assert output.partition is None


def test_a_record_without_ingest_time_gets_its_own() -> None:
    (output,) = run([record(ingest_ts=None)]).outputs
    assert output.value is not None
    assert decode_event(output.value).ingest_ts == INGEST


def test_an_optional_field_given_only_by_its_alias_is_not_lost() -> None:
    (output,) = run([record(severity="warning", response_time=5)]).outputs
    assert output.value is not None
    event = decode_event(output.value)
    assert (event.level, event.latency_ms) == ("WARN", 5.0)


def test_what_is_missing_is_derived_from_the_record_so_that_a_replay_is_the_same() -> None:
    first, again = run([b'{"source":"x"}']).outputs, run([b'{"source":"x"}']).outputs
    other = run([b'{"source":"x"}'], offset=41).outputs
    assert first == again
    assert first[0].value is not None
    event = decode_event(first[0].value)
    assert str(UUID(event.event_id)) == event.event_id
    assert event.timestamp == INGEST
    assert other[0].value != first[0].value


def test_lane_and_trace_headers_stay_and_others_go() -> None:
    headers = [("lane", b"ship-1"), ("trace_id", b"t"), ("correlation_id", b"c"), ("x", b"y")]
    for raw in (record(), b'{"source":"x"}'):
        origin = ("origin", b"application-logs/2:40")
        assert run([raw], headers).outputs[0].headers == (*headers[:3], origin)


def test_each_event_names_the_record_it_was_made_of() -> None:
    headers = [("origin", b"elsewhere/0:7")]
    made = run([record(), b"garbage", b'{"source":"x"}'], headers, offset=9).outputs
    assert [each.headers for each in made] == [
        (("origin", b"application-logs/2:9"),),
        (("origin", b"application-logs/2:11"),),
    ]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (None, ""),
        (b"", ""),
        (b"\xff\xfe", ""),
        (b"[" * 300_000, ""),
        (b'{"source":NaN}', ""),
        (b"[1]", ""),
        (b"{}", "source"),
        (record(timestamp=INGEST + 300_001), "timestamp"),
        (record(timestamp="9999-12-31T23:59:59Z"), "timestamp"),
        (record(service="x" * 10_000), "service"),
        (record(service="a\x00b"), "service"),
        (record(endpoint="/" * 10_000), "endpoint"),
        (record(message="x" * 2_000_000), "message"),
    ],
)
def test_a_broken_record_is_rejected_with_its_place_field_and_reason(
    raw: bytes | None, field: str
) -> None:
    effects = run([record(), raw, record()])
    (reject,) = effects.rejects
    assert (reject.index, reject.field, reject.kind) == (1, field, "VALIDATION")
    assert 0 < len(reject.reason) <= 900
    assert (effects.applied, len(effects.outputs)) == (2, 2)


def test_the_future_is_measured_from_the_record_and_not_from_the_clock() -> None:
    at_the_limit = record(timestamp=INGEST + 300_000)
    assert run([at_the_limit]).applied == 1


def test_unknown_fields_do_not_reach_the_stream() -> None:
    raw = record(junk="x" * 10)[:-1] + b',"other":"\xc3\xa9"}'
    (output,) = run([raw]).outputs
    assert output.value is not None
    assert set(json.loads(output.value)) == set(CANONICAL)


pieces = st.binary(max_size=30) | st.sampled_from([record(), b'{"source":"x"}', b"{}"])


@given(st.lists(pieces | st.none(), min_size=1, max_size=8))
def test_every_record_ends_as_applied_or_rejected(values: list[bytes | None]) -> None:
    effects = run(values)
    assert effects.applied + len(effects.rejects) == len(values)
    assert len(effects.outputs) == effects.applied
    for output in effects.outputs:
        assert output.value is not None
        event = decode_event(output.value)
        assert conforms(event)
        assert event.ingest_ts is not None
        assert output.key == event.service.encode()
