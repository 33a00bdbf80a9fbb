"""Groups of events: what they come to is what plain loops over them come to, to the last unit."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.log_events.groups import NONE, Groups, coded, grouped, ints, ranked, runs

CODE = st.integers(0, 5)
VALUE = st.integers(-(2**40), 2**40)
FAR = st.sampled_from([0, 1, 7, 2**20, 2**47])
EVENTS = st.lists(st.tuples(CODE, FAR, VALUE, st.booleans()), max_size=60)
Event = tuple[int, int, int, bool]


def columns(events: list[Event]) -> tuple[np.ndarray, ...]:
    one, two, values, flags = (
        (list(each) for each in zip(*events, strict=True)) if events else [[]] * 4
    )
    return ints(one), ints(two), ints(values), np.array(flags, np.bool_)


def by_codes(events: list[Event]) -> dict[tuple[int, int], list[int]]:
    """Places of wanted events by both codes, each in order of arrival; in order of the codes."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, (one, two, _, wanted) in enumerate(events):
        if wanted:
            found[one, two].append(place)
    return dict(sorted(found.items()))


def wanted_of(events: list[Event]) -> Groups:
    one, two, _, flags = columns(events)
    return grouped(np.flatnonzero(flags), one, two)


@given(EVENTS)
def test_events_are_grouped_by_all_codes_in_order_of_arrival(events: list[Event]) -> None:
    expected = list(by_codes(events).values())
    groups = wanted_of(events)
    assert groups.lists() == expected
    assert groups.first.tolist() == [places[0] for places in expected]
    assert groups.last.tolist() == [places[-1] for places in expected]
    assert groups.counts.tolist() == list(map(len, expected))


@given(EVENTS)
def test_sums_squares_extremes_and_tallies_are_those_of_plain_loops(events: list[Event]) -> None:
    values = [value for _, _, value, _ in events]
    taken = [[values[place] for place in places] for places in by_codes(events).values()]
    groups, column = wanted_of(events), columns(events)[2]
    assert groups.sums(column) == list(map(sum, taken))
    assert groups.squares(column) == [sum(v * v for v in each) for each in taken]
    assert groups.lowest(column) == list(map(min, taken))
    assert groups.highest(column) == list(map(max, taken))
    small = [[v % 11 - 5 for v in each] for each in taken]
    assert groups.tallies(column % 11 - 5) == [dict(Counter(each)) for each in small]


@given(EVENTS, st.sampled_from([3, 63, 64, 2**40]))
def test_the_codes_of_each_group_are_told_however_many_there_are(
    events: list[Event], different: int
) -> None:
    codes = [value % different for _, _, value, _ in events]
    expected = [{codes[place] for place in places} for places in by_codes(events).values()]
    assert wanted_of(events).sets(ints(codes)) == expected


@given(EVENTS, st.sets(st.integers(0, 59)))
def test_only_some_of_the_events_leave_the_groups_that_have_any(
    events: list[Event], kept: set[int]
) -> None:
    expected = [[p for p in places if p in kept] for places in by_codes(events).values()]
    some, which = wanted_of(events).only(
        np.array([p in kept for p in range(len(events))], np.bool_)
    )
    assert some.lists() == [places for places in expected if places]
    assert which.tolist() == [n for n, places in enumerate(expected) if places]


@given(EVENTS, st.integers(0, 3))
def test_runs_are_apart_where_none_came_for_the_gap(events: list[Event], gap: int) -> None:
    times = [value % 40 for _, _, value, _ in events]
    expected = []
    for places in by_codes(events).values():
        places.sort(key=times.__getitem__)
        held: list[int] = []
        for place in places:
            if held and times[place] - held[-1] > gap:
                expected.append(held)
                held = []
            held.append(times[place])
        expected.append(held)
    one, two, _, flags = columns(events)
    found = runs(np.flatnonzero(flags), ints(times), gap, one, two)
    assert [[times[place] for place in places] for places in found.lists()] == expected


@pytest.mark.parametrize("value", [10**18, -(10**18), 2**62])
def test_sums_and_squares_are_exact_beyond_64_bits(value: int) -> None:
    groups = grouped(np.arange(40), np.zeros(40, np.int64))
    column = np.full(40, value)
    assert groups.sums(column) == [40 * value]
    assert groups.squares(column) == [40 * value**2]


@given(st.lists(st.none() | st.sampled_from(["", "a", "b", "a\0", "ä"]), max_size=20))
def test_codes_are_places_among_the_different_values(column: list[str | None]) -> None:
    names, codes = coded(column)
    assert len(names) == len(set(names))
    assert [None if code == NONE else names[code] for code in codes.tolist()] == column


@given(st.lists(st.integers(0, 2**60), max_size=20))
def test_ranks_keep_the_order(column: list[int]) -> None:
    order = sorted(set(column))
    assert ranked(ints(column)).tolist() == [order.index(each) for each in column]
