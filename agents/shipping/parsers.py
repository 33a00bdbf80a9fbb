"""Lines of log files as raw events, for :func:`app.models.incoming.normalise`. Pure.

``combined`` and ``common`` are Apache's and nginx's access logs
(https://httpd.apache.org/docs/2.4/logs.html#accesslog), ``ndjson`` one JSON object a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Literal, get_args

from app.models import rules
from app.models.incoming import NotJsonError, parse_json

Format = Literal["combined", "common", "ndjson"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

RawEvent = dict[str, object]
NO_PATH: Final = "-"
"""Endpoint of a request whose line names no path (a TLS handshake on a plain port, a time-out)."""


@dataclass(frozen=True, slots=True)
class ParseError:
    """Why a line is no line of its format."""

    reason: str


def parse(line: bytes, fmt: Format) -> RawEvent | ParseError:
    """Raw event of one line, without its line end. Never raises, whatever the bytes.

    Invalid UTF-8 is read with U+FFFD in its place. Access-log lines have no ``source``
    and no ``service``: the caller gives them.
    """
    if len(line) > rules.EVENT_BYTES_MAX:
        return ParseError(f"the line is longer than {rules.EVENT_BYTES_MAX} bytes")
    if b"\0" in line:
        return ParseError("the line holds NUL bytes")
    return _PARSERS[fmt](line)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_MONTHS: Final = tuple("JanFebMarAprMayJunJulAugSepOctNovDec"[i : i + 3] for i in range(0, 36, 3))
_QUOTED: Final = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_COMMON: Final = re.compile(
    r"(?P<host>\S+) \S+ (?P<user>.+?) "
    r"\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d) (?P<zone>[+-]\d{4})\] "
    + _QUOTED.replace("(", "(?P<request>", 1)
    + r" (?P<status>\d{3}|-) (?P<bytes>\d{1,19}|-)(?= |$)",
    re.ASCII,
)
_STRICT_TAIL: Final = re.compile(rf" {_QUOTED} {_QUOTED}(?: |$)")
# Some servers write quotes inside the agent as they come, and real files hold lines cut short
# there: what comes after the bytes is never a reason to refuse a request that was served.
_LOOSE_TAIL: Final = re.compile(r' "([^"]*)" "(.*?)"?$')
_REQUEST: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (\S.*?)(?: HTTP/\d(?:\.\d)?)?$")
_METHOD_SHAPE: Final = re.compile(r"[A-Z][A-Z_-]*")
_ESCAPED: Final = re.compile(r'\\(["\\])')


def _common(line: bytes) -> RawEvent | ParseError:
    return _access(line, with_tail=False)


def _combined(line: bytes) -> RawEvent | ParseError:
    return _access(line, with_tail=True)


def _access(line: bytes, *, with_tail: bool) -> RawEvent | ParseError:
    if len(line) > rules.MESSAGE_BYTES_MAX:
        return ParseError(f"the line is longer than {rules.MESSAGE_BYTES_MAX} bytes")
    text = line.decode(errors="replace")
    match = _COMMON.match(text)
    if match is None:
        return ParseError('not an access-log line: host ident user [time] "request" status bytes')
    host, user, moment, zone, request, status, size = match.group(
        "host", "user", "time", "zone", "request", "status", "bytes"
    )
    timestamp = _epoch_ms(moment, zone)
    if timestamp is None:
        return ParseError(f"impossible time [{moment} {zone}]")
    method, endpoint = _request(request)
    event: RawEvent = {
        "timestamp": timestamp,
        "type": "http_request",
        "endpoint": endpoint,
        "message": rules.clip_utf8(text, rules.MESSAGE_BYTES_MAX),
    }
    if method is not None:
        event["method"] = method
    if user not in ("-", '""'):
        event["user_id"] = _printable(user)[: rules.KEY_MAX]
    metadata = _tail(text, match.end()) if with_tail else {}
    _note(metadata, "bytes", size)
    _set_status(event, metadata, status)
    if _is_ip(host):
        event["ip"] = host
    else:
        _note(metadata, "host", host)
    event["metadata"] = metadata
    return event


def _tail(text: str, start: int) -> dict[str, str]:
    metadata: dict[str, str] = {}
    tail = _STRICT_TAIL.match(text, start) or _LOOSE_TAIL.match(text, start)
    if tail is not None:
        _note(metadata, "referer", tail[1])
        _note(metadata, "user_agent", tail[2])
    return metadata


def _set_status(event: RawEvent, metadata: dict[str, str], text: str) -> None:
    """Status and level; a code outside HTTP's range (999, 000) is only noted."""
    status = int(text) if text != "-" else 0
    event["level"] = "INFO"
    if rules.STATUS_MIN <= status <= rules.STATUS_MAX:
        event["status"] = status
        event["level"] = "ERROR" if status >= 500 else "WARN" if status >= 400 else "INFO"
    else:
        _note(metadata, "status", text)


def _request(request: str) -> tuple[str | None, str]:
    """Method, if there is one, and path without its query, as they were logged."""
    match = _REQUEST.match(request)
    # HTTP/0.9 has no version; what then is no plain verb is no request but noise on the port.
    if match is None or ("HTTP/" not in request and not _METHOD_SHAPE.fullmatch(match[1])):
        return None, NO_PATH
    path = _printable(match[2].partition("?")[0])
    # An attacker's endless path must not cost the event; its line is kept whole in the message.
    return match[1], path[: rules.ENDPOINT_MAX] or NO_PATH


def _note(metadata: dict[str, str], name: str, text: str) -> None:
    if text not in ("-", ""):
        if "\\" in text:
            text = _ESCAPED.sub(r"\1", text)
        metadata[name] = text[: rules.METADATA_VALUE_MAX]


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@lru_cache(maxsize=4_096)
def _epoch_ms(moment: str, zone: str) -> int | None:
    """Epoch milliseconds of ``17/May/2015:10:05:03`` at ``+0000``; None when impossible."""
    hours, minutes = int(zone[1:3]), int(zone[3:])
    if moment[3:6] not in _MONTHS or hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes)
    second = int(moment[18:20])
    try:
        whole = datetime(
            int(moment[7:11]),
            _MONTHS.index(moment[3:6]) + 1,
            int(moment[:2]),
            int(moment[12:14]),
            int(moment[15:17]),
            # A leap second is the first instant of the next minute.
            59 if second == 60 else second,
            tzinfo=timezone(-offset if zone[0] == "-" else offset),
        )
    except ValueError:
        return None
    return ((whole - _EPOCH) // _SECOND + (second == 60)) * 1_000


@lru_cache(maxsize=4_096)
def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return len(host) <= rules.IP_MAX and host.isprintable()


def _ndjson(line: bytes) -> RawEvent | ParseError:
    try:
        value = parse_json(line)
    except NotJsonError as exc:
        return ParseError(str(exc))
    return value if isinstance(value, dict) else ParseError("not a JSON object")


_PARSERS: Final[Mapping[Format, Callable[[bytes], RawEvent | ParseError]]] = {
    "combined": _combined,
    "common": _common,
    "ndjson": _ndjson,
}
