"""Moments and ranges in queries."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web.problem import Kind, ProblemError
from web.queries.times import TimeRange, parse_moment, parse_time_range

NOW = 1_769_860_800_000  # 2026-01-31T12:00:00Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("-15m", NOW - 900_000),
        ("-500ms", NOW - 500),
        ("-2h", NOW - 7_200_000),
        ("-999999d", 0),
        ("0", 0),
        (str(NOW), NOW),
        ("2026-01-31T12:00:00Z", NOW),
        ("2026-01-31T14:00:00+02:00", NOW),
        ("2026-01-31T14:00:00 02:00", NOW),  # an unescaped plus
    ],
)
def test_a_moment_may_be_epoch_rfc_3339_or_relative(text: str, moment: int) -> None:
    assert parse_moment({"from": text}, "from", NOW) == moment


@pytest.mark.parametrize("text", ["", "15m", "-m", "-1w", "+1h", "2026-01-31", "1e3", "٣", "-1"])
def test_anything_else_is_refused_with_the_field_and_what_is_accepted(text: str) -> None:
    with pytest.raises(ProblemError, match="parameter to: expected epoch milliseconds") as caught:
        parse_moment({"to": text}, "to", NOW)
    assert caught.value.kind is Kind.INVALID
    assert caught.value.errors[0].field == "to"


def test_a_range_goes_forward() -> None:
    assert parse_time_range({"from": "-1h", "to": "now"}, NOW) == TimeRange(NOW - 3_600_000, NOW)
    assert parse_time_range({}, NOW) == TimeRange(None, None)
    with pytest.raises(ProblemError, match="must be less than to"):
        parse_time_range({"from": "now", "to": "-1h"}, NOW)


@given(st.text())
def test_any_text_is_a_moment_or_a_400(text: str) -> None:
    with suppress(ProblemError):
        moment = parse_moment({"from": text}, "from", NOW)
        assert moment is not None
        assert moment >= 0


def test_a_range_is_told_to_another_worker_in_absolute_terms() -> None:
    assert TimeRange(5, None).query() == {"from": "5"}
