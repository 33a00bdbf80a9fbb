"""Why the history is not written: told with what to do, for as long as it is so."""

from __future__ import annotations

from pathlib import Path

import confluent_kafka as ck
import pytest

from agents.history.trouble import CAUSE_MAX, QUIET_S, Trouble
from app.engine.driver import ManualClock
from tables.history.place import Bucket, Place
from tables.history.store import StoreError

FOLDER, BUCKET = Path("/history"), Bucket("logs", "prod")
TO_THE_END_MS = int(QUIET_S * 1000)


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        (
            FOLDER,
            PermissionError(13, "denied"),
            "/history (for 0 s): [Errno 13] denied; make the f",
        ),
        (
            BUCKET,
            StoreError("no answer"),
            "s3://logs/prod (for 0 s): no answer; look whether",
        ),
        (FOLDER, ck.KafkaException(ck.KafkaError(ck.KafkaError._TRANSPORT)), "brokers answer"),
        (FOLDER, ValueError("unforeseen"), "unforeseen; the log of this worker says where"),
    ],
)
def test_an_alert_names_place_cause_and_what_to_do(
    place: Place, error: Exception, said: str
) -> None:
    trouble = Trouble(place, ManualClock(0))
    assert trouble.alert() == ""
    trouble.met(error, 1.0)
    assert said in trouble.alert()
    trouble.over()
    assert trouble.alert() == ""


def test_an_alert_lasts_from_failure_to_failure_and_ends_when_there_is_nothing_to_write() -> None:
    clock = ManualClock(0)
    trouble = Trouble(FOLDER, clock)
    for _ in range(3):
        trouble.met(OSError("full"), 1.0)
        clock.advance(TO_THE_END_MS - 1)
        assert "full" in trouble.alert()
    assert f"(for {3 * QUIET_S:.0f} s)" in trouble.alert()
    clock.advance(2)
    assert trouble.alert() == ""
    trouble.met(OSError("full"), 1.0)
    assert "(for 0 s)" in trouble.alert()


def test_a_cause_is_told_by_its_beginning() -> None:
    trouble = Trouble(FOLDER, ManualClock(0))
    trouble.met(OSError("x" * 100_000), 1.0)
    assert len(trouble.alert()) < CAUSE_MAX + 300
