"""The sum of a window that slides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tables.windows.sliding import Sliding
from tables.windows.stats import EMPTY, WindowStats, merge_stats


def pane(number: int) -> WindowStats:
    """One that differs from every other in each figure."""
    value = 10 + number
    return WindowStats(
        count=1, n=1, sum=value, min=value, max=value, hist={number: 1}, sumsq=value * value,
        lanes=(f"lane-{number}",), updated_ms=number,
    )  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60))
def test_the_total_is_the_merge_of_what_was_pushed_and_not_dropped(
    moves: list[tuple[bool, int]],
) -> None:
    sliding, left = Sliding(), list[tuple[int, WindowStats]]()
    start = before = 0
    for number, (pushes, further) in enumerate(moves):
        if pushes:
            start += further
            sliding.push(start, pane(number))
            left.append((start, pane(number)))
        else:
            before += further
            left = [each for each in left if each[0] >= before]
            expected = EMPTY
            for _, stats in left:
                expected = merge_stats(expected, stats)
            assert sliding.total(before) == expected
            assert bool(sliding) == bool(left)
