"""Keeps a log readable while one cause is told of many times a second."""

from __future__ import annotations

import logging
from math import inf
from typing import Final

REPEATING: Final = ("aiokafka", "web.gateway.producer", "agents.shipping.demo")
"""Loggers that repeat themselves: while no broker answers, some ninety lines a second."""
SPAN_S: Final = 10.0
"""Of messages alike, one in such a time is written."""
KINDS_MAX: Final = 256


class Repeats(logging.Filter):
    """Lets the first of alike messages pass, then one each :data:`SPAN_S` with their number.

    Alike are those of one logger that were made from one text, whatever was filled in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        if not record.name.startswith(REPEATING) or record.levelno < logging.WARNING:
            return True
        kind = record.name, str(record.msg)
        written_s, left_out = self._held.get(kind, (-inf, 0))
        if record.created - written_s < SPAN_S:
            self._held[kind] = written_s, left_out + 1
            return False
        if len(self._held) >= KINDS_MAX:
            self._held.clear()
        self._held[kind] = record.created, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it)", ()
        return True
