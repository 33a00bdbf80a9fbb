"""A window is not written again once one of its panes may have expired; those after it are."""

from __future__ import annotations

from dataclasses import replace

from agents.topics import WINDOW_PARTIALS, WINDOWS_UPDATES
from tables.windows.finals import decode_record
from tables.windows.keys import period_of
from tables.windows.spec import WindowSpec
from tests.windows.driver import HOUR, MINUTE, TEN
from tests.windows.test_windows_nothing_lost import (
    DAY,
    HOPPING,
    TUMBLING,
    fall_idle,
    finals,
    put,
    sweep,
    world,
)
from tests.windows.world import World

FIRST, THIRD = period_of(TEN) - MINUTE, period_of(TEN) + MINUTE  # they go one by one


def with_the_first_pane_expired(spec: WindowSpec) -> World:
    """Three events of the first pane, two of the third, and the first pane is gone."""
    made = world(spec)
    for _ in range(3):
        put(made, FIRST, lane="file-1")
    put(made, THIRD, lane="file-1")
    fall_idle(made)
    made.advance(20 * HOUR)
    put(made, THIRD, lane="file-2")  # keeps this pane, and revises its windows
    fall_idle(made)
    made.advance(5 * HOUR)
    sweep(made)
    assert len(made.rows(WINDOW_PARTIALS, "hopping")) == 1
    return made


def test_a_window_of_which_a_pane_expired_is_not_written_again_and_later_ones_are():
    made = with_the_first_pane_expired(HOPPING)
    before = finals(made)
    at = (FIRST - TEN) // MINUTE
    assert max(before)[0] == at + 2
    for _ in range(10):
        put(made, THIRD, lane="file-3")
    fall_idle(made)
    # Windows that began until then held the first pane too; the two after it did not.
    assert finals(made)[len(before) :] == [(at + 1, 3, 12), (at + 2, 3, 12)]


def test_a_window_that_expired_is_not_written_again_of_new_events_alone():
    kept = replace(HOPPING, retention_ms=3 * DAY)  # what was written stays for the longest
    made = world(TUMBLING, kept)
    for _ in range(3):
        put(made, TEN, lane="file-1")
    fall_idle(made)
    made.advance(DAY)
    sweep(made)
    assert made.rows(WINDOW_PARTIALS, "tumbling") == {}
    for _ in range(5):
        put(made, TEN, lane="file-2")
    fall_idle(made)
    assert [count for _, _, count in finals(made, name="tumbling")] == [3]
    assert [count for _, _, count in finals(made, name="hopping")] == [3] * 5 + [8] * 5
    made.advance(DAY)
    sweep(made)
    assert made.rows(WINDOW_PARTIALS, "tumbling") == {}  # nothing is waited for any more


def test_a_window_whose_panes_are_all_younger_than_their_retention_is_written_again():
    made = world(HOPPING)
    put(made, TEN, lane="file-1")
    made.settle()
    made.advance(DAY - 10 * MINUTE)
    put(made, TEN + MINUTE, lane="file-1")
    fall_idle(made)
    put(made, TEN + MINUTE, lane="file-2")
    fall_idle(made)
    assert [each for each in finals(made) if each[0] == 0] == [(0, 1, 1), (0, 2, 2), (0, 3, 3)]


def test_no_update_is_said_of_a_window_of_which_a_pane_expired():
    made = with_the_first_pane_expired(replace(HOPPING, emit="updates"))
    before = len(made.topics[WINDOWS_UPDATES])
    put(made, THIRD, lane="file-3")
    fall_idle(made)
    records = [decode_record(each.value or b"") for each in made.topics[WINDOWS_UPDATES][before:]]
    assert [((r.start - FIRST) // MINUTE, r.count) for r in records] == [(1, 3), (2, 3)]
