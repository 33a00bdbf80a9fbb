"""The three-sigma rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.windows.anomaly import BASELINE_MAX, BASELINE_MIN, judge

MEAN_100_SIGMA_10 = [90.0, 110.0] * 30


@pytest.mark.parametrize(
    ("value", "flagged"), [(131, True), (129, False), (69, True), (71, False), (130, False)]
)
def test_a44_4_beyond_three_sigma_is_flagged_and_within_is_not(value: float, flagged: bool) -> None:
    judged = judge(MEAN_100_SIGMA_10, value)
    assert judged is not None
    assert (judged.mean, judged.deviation) == (100, 10)
    assert judged.flagged is flagged


def test_a_short_baseline_judges_nothing() -> None:
    assert judge([1.0] * (BASELINE_MIN - 1), 1e9) is None
    assert judge([1.0] * BASELINE_MIN, 1e9) is not None


def test_only_the_newest_of_a_long_baseline_count() -> None:
    judged = judge([1e6] * 50 + MEAN_100_SIGMA_10, 131)
    assert judged is not None
    assert judged.mean == 100
    assert len(MEAN_100_SIGMA_10) == BASELINE_MAX


def test_a_flat_baseline_tolerates_a_small_change() -> None:
    judged = [judge([100.0] * 20, value) for value in (103, 103.1)]
    assert [each is not None and each.flagged for each in judged] == [False, True]


@given(st.lists(st.floats(0, 1e9), min_size=BASELINE_MIN, max_size=80), st.floats(0, 1e9))
def test_any_baseline_gives_a_finite_score(baseline: list[float], value: float) -> None:
    judged = judge(baseline, value)
    assert judged is not None
    assert judged.deviation > 0
    assert abs(judged.score) < 1e16
