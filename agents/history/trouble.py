"""Why the history is not written, for those who are told of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import confluent_kafka as ck

from app.engine.clock import Clock
from tables.history.place import Place

logger = logging.getLogger(__name__)

QUIET_S: Final = 180.0
"""Without a failure for so long there is none: twice what passes between two attempts to write."""
CAUSE_MAX: Final = 300
"""Characters."""


class Trouble:
    """What went wrong last, until something is written or nothing is left to write.

    Noted by the archiver's thread, read by any.
    """

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._last: tuple[float, float, str] | None = None
        """When it began and was last met (monotonic), and what it was."""

    def met(self, error: Exception, wait_s: float) -> None:
        """An attempt has failed; the next is made after so long."""
        if isinstance(error, OSError | ck.KafkaException):
            logger.warning(
                "history is not written: %s; the records wait in Kafka, next attempt in %.0f s",
                error,
                wait_s,
            )
        else:
            logger.error("history is not written; next attempt in %.0f s", wait_s, exc_info=error)
        now_s, last = self._clock.monotonic(), self._last
        began_s = now_s if last is None or now_s - last[1] > QUIET_S else last[0]
        self._last = began_s, now_s, f"{str(error)[:CAUSE_MAX]}; {self._what_to_do(error)}"

    def over(self) -> None:
        """Something was written."""
        self._last = None

    def alert(self) -> str:
        """What is wrong and what to do, in a sentence; "" while nothing is."""
        last, now_s = self._last, self._clock.monotonic()
        if last is None or now_s - last[1] > QUIET_S:
            return ""
        began_s, _, what = last
        return (
            f"the history is not written to {self._place} (for {now_s - began_s:.0f} s): {what}; "
            "until then records wait in Kafka, for as long as their topic keeps them"
        )

    def _what_to_do(self, error: Exception) -> str:
        if isinstance(error, ck.KafkaException):
            return "look whether the brokers answer"
        if not isinstance(error, OSError):
            return "the log of this worker says where"
        if isinstance(self._place, Path):
            return "make the folder writable for this worker, or free space on its disk"
        return "look whether the object store answers, and whether AWS_* may write there"
