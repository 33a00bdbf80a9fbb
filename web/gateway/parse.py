"""From bytes to items: one JSON object, an array of objects, or NDJSON.

Pure. The rules for a single event are the event model's; here only the framing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from app.models.incoming import NotJsonError, parse_json

BATCH_MAX = 1_000


class MalformedError(Exception):
    """The body is not JSON. ``index`` is the item that could not be read."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class BatchTooLongError(Exception):
    """More items than :data:`BATCH_MAX`."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """The items of a body; ``single`` when it was one object, to be answered as one."""

    items: list[object]
    single: bool


def parse_body(raw: bytes, *, ndjson: bool) -> Parsed:
    """Items of the body, each any JSON value.

    ``ndjson`` says that the sender declared one object per line; otherwise lines are
    recognised when the body is not one JSON document but its first line is an object.
    Strict JSON: NaN, Infinity, numbers beyond a double, invalid UTF-8 and nesting deeper
    than the decoder's limit raise :class:`MalformedError`.
    """
    if not raw.strip():
        raise MalformedError(0, "the body is empty")
    if ndjson:
        return _lines(raw)
    try:
        value = _decode(raw, 0)
    except MalformedError as exc:
        if _looks_like_lines(raw):
            return _lines(raw)
        raise MalformedError(_failing_index(raw), exc.reason) from exc
    if not isinstance(value, list):
        return Parsed([value], single=True)
    if len(value) > BATCH_MAX:
        raise BatchTooLongError
    return Parsed(value, single=False)


def _decode(raw: bytes, index: int) -> object:
    try:
        return parse_json(raw)
    except NotJsonError as exc:
        raise MalformedError(index, str(exc)) from exc


def _lines(raw: bytes) -> Parsed:
    lines = [line for line in raw.split(b"\n") if line.strip()]
    if len(lines) > BATCH_MAX:
        raise BatchTooLongError
    return Parsed([_decode(line, index) for index, line in enumerate(lines)], single=False)


def _looks_like_lines(raw: bytes) -> bool:
    first, newline, rest = raw.strip().partition(b"\n")
    if not newline or not rest.strip() or not first.startswith(b"{"):
        return False
    try:
        return isinstance(_decode(first, 0), dict)
    except MalformedError:
        return False


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _failing_index(raw: bytes) -> int:
    """Element of an array at which reading stops; 0 when the body is not an array.

    Only on the way to a 400: reads element by element what the fast decoder refused.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        text = raw[: exc.start].decode()
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position = len(text) - len(text.lstrip())
    if not text.startswith("[", position):
        return 0
    index = 0
    while index < BATCH_MAX:
        position += 1
        while text[position : position + 1].isspace():
            position += 1
        try:
            _, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return index
        while text[position : position + 1].isspace():
            position += 1
        if text[position : position + 1] != ",":
            return index
        index += 1
    return index
