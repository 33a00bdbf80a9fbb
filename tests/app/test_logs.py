"""A log stays readable while a client library repeats itself."""

from __future__ import annotations

import logging

import pytest

from app import logs
from app.logs import SPAN_S, Repeats


def record(at: float, text: str, *filled: object, name: str = "aiokafka.conn") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, __file__, 1, text, filled, None)
    made.created = at
    return made


def test_of_messages_alike_one_in_ten_seconds_is_written_with_their_number() -> None:
    keep = Repeats().filter
    assert keep(record(0.0, "no node %s", 1))
    assert not any(keep(record(at, "no node %s", at)) for at in (0.1, 5.0, SPAN_S - 0.1))
    last = record(SPAN_S, "no node %s", 7)
    assert keep(last)
    assert last.getMessage() == "no node 7 (3 more like it)"
    assert not keep(record(SPAN_S + 1, "no node %s", 1))


def test_other_messages_and_other_loggers_are_not_held_back() -> None:
    keep = Repeats().filter
    assert keep(record(0.0, "no node"))
    assert keep(record(0.1, "no coordinator"))
    assert keep(record(0.1, "no node", name="aiokafka.client"))
    assert all(keep(record(0.1, "no node", name="app.engine.commits")) for _ in range(3))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KINDS_MAX", 3)
    repeats = Repeats()
    assert all(repeats.filter(record(0.0, f"odd {number}")) for number in range(20))
    assert len(repeats._held) <= 3
