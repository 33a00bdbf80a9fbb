"""What an ingest endpoint takes at once, and gives back."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter

from web.gateway.intake import Intake
from web.problem import Kind, ProblemError


@pytest.fixture
def intake() -> Intake:
    return Intake(
        "events",
        again="send again",
        rate=10,
        requests_max=3,
        clock=lambda: 0,
        throttled=Counter("throttled", "Answered 429", registry=CollectorRegistry()),
    )


def test_one_request_too_many_is_told_to_come_again_and_a_failed_one_gives_its_place_back(
    intake: Intake,
) -> None:
    with ExitStack() as under_way:
        for _ in range(2):
            under_way.enter_context(intake.request())
        with pytest.raises(ZeroDivisionError), intake.request():
            raise ZeroDivisionError
        under_way.enter_context(intake.request())
        with pytest.raises(ProblemError) as refused, intake.request():
            pass
        assert refused.value.kind == Kind.UNAVAILABLE
        assert refused.value.retry_after_s == 1
    with intake.request():
        pass
