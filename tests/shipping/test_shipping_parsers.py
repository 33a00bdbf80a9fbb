"""Access logs and NDJSON: what real lines become, and what hostile ones do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.shipping.parsers import FORMATS, Format, ParseError, RawEvent, parse
from app.models.event import LogEvent
from app.models.incoming import normalise

ID = "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90"
NOW = 1_763_697_243_123
HEAD = '203.0.113.9 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1"'


def line(request: str = "GET /a HTTP/1.1", rest: str = '200 12 "-" "curl/8"') -> bytes:
    return f'203.0.113.9 - - [17/May/2015:10:05:03 +0000] "{request}" {rest}'.encode()


def read(raw: bytes, fmt: Format = "combined") -> RawEvent:
    event = parse(raw, fmt)
    assert isinstance(event, dict), event
    made = normalise({"source": "x"} | event, NOW, lambda: ID)
    assert isinstance(made, LogEvent), made
    return event


def test_a_combined_line_becomes_a_request() -> None:
    raw = (
        b'203.0.113.9 - alice [17/May/2015:10:05:03 +0200] "GET /a/b?q=1 HTTP/1.1" 404 203023 '
        b'"http://example.org/" "Mozilla/5.0 (X11)"'
    )
    assert read(raw) == {
        "timestamp": 1_431_849_903_000,
        "type": "http_request",
        "endpoint": "/a/b",
        "method": "GET",
        "status": 404,
        "level": "WARN",
        "ip": "203.0.113.9",
        "user_id": "alice",
        "message": raw.decode(),
        "metadata": {
            "referer": "http://example.org/",
            "user_agent": "Mozilla/5.0 (X11)",
            "bytes": "203023",
        },
    }


def test_a_common_line_has_no_referer_and_no_agent() -> None:
    event = read(line(rest="200 -"), "common")
    assert event["metadata"] == {}
    assert (event["status"], event["level"]) == (200, "INFO")


@pytest.mark.parametrize(
    ("request_line", "method", "endpoint"),
    [
        ("GET / HTTP/1.1", "GET", "/"),
        ("GET /a?b=c?d HTTP/2", "GET", "/a"),
        ("GET ?x HTTP/1.0", "GET", "-"),
        ("GET //favicon.ico HTTP/1.1", "GET", "//favicon.ico"),
        ("GET /with space HTTP/1.1", "GET", "/with space"),
        (r"GET /say\"hi\" HTTP/1.1", "GET", r"/say\"hi\""),
        ("GET /old", "GET", "/old"),
        ("OPTIONS * HTTP/1.0", "OPTIONS", "*"),
        ("CONNECT host:443 HTTP/1.1", "CONNECT", "host:443"),
        ("-", None, "-"),
        ("", None, "-"),
        (r"\x16\x03\x01\x02", None, "-"),
        (r"\x16\x03 \x01", None, "-"),
        ("GET /" + "a" * 10_000 + " HTTP/1.1", "GET", "/" + "a" * 2_047),
    ],
)
def test_odd_requests_are_kept_as_they_were_logged(
    request_line: str, method: str | None, endpoint: str
) -> None:
    event = read(line(request_line))
    assert (event.get("method"), event["endpoint"]) == (method, endpoint)


@pytest.mark.parametrize(
    ("status", "level", "kept"),
    [
        ("200", "INFO", 200),
        ("404", "WARN", 404),
        ("503", "ERROR", 503),
        ("-", "INFO", None),
        ("999", "INFO", None),
        ("000", "INFO", None),
    ],
)
def test_status_sets_the_level_and_codes_outside_http_are_only_noted(
    status: str, level: str, kept: int | None
) -> None:
    event = read(line(rest=f'{status} 5 "-" "-"'))
    assert (event["level"], event.get("status")) == (level, kept)


@pytest.mark.parametrize(
    ("tail", "agent"),
    [
        (r'"-" "say \"hi\""', 'say "hi"'),
        ('"-" "say "hi" there"', 'say "hi" there'),
        ('"-" "cut sho', "cut sho"),
        ('"-" "agent" "203.0.113.1" 0.004', "agent"),
        ('"http://cut', None),
        ("", None),
    ],
)
def test_whatever_follows_the_bytes_never_costs_the_event(tail: str, agent: str | None) -> None:
    metadata = read(line(rest=f"200 5 {tail}".strip()))["metadata"]
    assert isinstance(metadata, dict)
    assert metadata.get("user_agent") == agent


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("01/Jan/1970:00:00:00 +0000", 0),
        ("31/Dec/2016:23:59:60 +0000", 1_483_228_800_000),
        ("29/Feb/2024:00:00:00 -0130", 1_709_170_200_000),
    ],
)
def test_times_are_read_in_their_zone(stamp: str, expected: int) -> None:
    assert read(line().replace(b"17/May/2015:10:05:03 +0000", stamp.encode()))["timestamp"] == (
        expected
    )


def test_a_host_that_is_no_address_and_a_user_with_spaces_are_kept() -> None:
    event = read(line().replace(b"203.0.113.9 - -", b"crawler.example.org - john doe"))
    assert "ip" not in event
    assert event["user_id"] == "john doe"
    assert event["metadata"] == {
        "user_agent": "curl/8",
        "bytes": "12",
        "host": "crawler.example.org",
    }


def test_invalid_utf8_is_replaced() -> None:
    assert (
        read(line("GET /caf\u00e9 HTTP/1.1").replace(b"\xc3\xa9", b"\xe9"))["endpoint"]
        == "/caf\ufffd"
    )


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"\x00" * 10,
        line() + b"\0",
        b"x" * (1 << 20),
        b"[" * 300_000,
        b"\xff" * 100,
        line().replace(b"May", b"Mai"),
        line().replace(b"17/May", b"31/Feb"),
        line().replace(b"+0000", b"+9900"),
        line().replace(b" 200 ", b" OK "),
        b'"' * 60_000,
        b"a b " + b"[ " * 30_000,
    ],
    ids=range(13),
)
def test_what_is_no_line_of_the_format_is_refused_with_a_reason(raw: bytes, fmt: Format) -> None:
    refused = parse(raw, fmt)
    assert isinstance(refused, ParseError)
    assert 0 < len(refused.reason) < 200


def test_ndjson_is_an_object_on_each_line() -> None:
    assert parse(b'{"source":"a","n":1}', "ndjson") == {"source": "a", "n": 1}
    assert isinstance(parse(b"[1]", "ndjson"), ParseError)


near_lines = st.builds(
    lambda pieces: "".join(pieces).encode("utf-8", "replace"),
    st.lists(st.sampled_from([HEAD, " 200 ", "12", ' "-"', '"', "\\", " ", "[", "-"]) | st.text()),
)


@given(st.binary() | near_lines, st.sampled_from(FORMATS))
def test_parsing_never_raises_and_access_lines_always_normalise(raw: bytes, fmt: Format) -> None:
    event = parse(raw, fmt)
    if fmt != "ndjson" and isinstance(event, dict):
        assert isinstance(normalise({"source": "x"} | event, NOW, lambda: ID), LogEvent)
