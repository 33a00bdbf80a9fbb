"""Merging sessions is a commutative monoid, and what comes of it is what a plain loop finds."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sessions.repartition import decode_partial, encode_partial
from tables.sessions.funnel import bounded, depth, merge_evidence
from tables.sessions.rows import UserRows, UserSessions
from tables.sessions.state import (
    Closed,
    Partial,
    Session,
    Sessions,
    coalesce,
    consistent,
    merge_partials,
    merge_sessions,
)
from tables.sessions.stats import SessionStats, StatsRows, merge_stats
from tests.sessions.sessions_driver import HOUR, TEN, Rig, event, plain_depth, plain_sessions

GAP = 10
STEPS = ("view", "cart", "purchase")

_times = st.integers(0, 300)


@st.composite
def single(draw: st.DrawFn) -> Session:
    """A session as a local stage or a row may hold it."""
    start, length = draw(_times), draw(st.integers(0, 30))
    taken = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, length)), max_size=4))
    steps = tuple(bounded({start + at for step, at in taken if step == n}) for n in range(3))
    count = draw(st.integers(1, 50))
    numbers = st.lists(st.integers(0, 3), min_size=5, max_size=5)
    said = draw(st.dictionaries(st.integers(start, start + length), numbers, max_size=2))
    closed = {at: Closed(at, start + length, *said[at]) for at in said}
    return Session(
        start,
        start + length,
        count,
        draw(st.integers(0, count)),
        steps if any(steps) else (),
        tuple(sorted(draw(st.sets(st.sampled_from(["", "a", "b"]), min_size=1)))),
        draw(_times),
        tuple(closed[key] for key in sorted(closed)),
        draw(st.integers(0, 2)),
    )


@st.composite
def sets(draw: st.DrawFn) -> Sessions:
    """A set of sessions, more than the gap apart."""
    singles = draw(st.lists(single(), max_size=4))
    return coalesce(sorted(singles, key=lambda each: each.start), GAP)


@given(sets(), sets(), sets())
@settings(max_examples=150)
def test_merging_sessions_is_associative_and_commutative(a: Sessions, b: Sessions, c: Sessions):
    def merge(left: Sessions, right: Sessions) -> Sessions:
        return merge_sessions(left, right, GAP)

    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, ()) == a == merge((), a)
    merged = merge(a, b)
    assert all(one.end + GAP < other.start for one, other in pairwise(merged))
    assert sum(s.count for s in merged) == sum(s.count for s in (*a, *b))


_evidence = st.tuples(*[st.sets(st.integers(0, 60), max_size=30).map(bounded) for _ in STEPS])


@given(_evidence, _evidence, _evidence)
def test_merging_evidence_is_associative_and_commutative(a, b, c):
    assert merge_evidence(a, b) == merge_evidence(b, a)
    assert merge_evidence(merge_evidence(a, b), c) == merge_evidence(a, merge_evidence(b, c))
    assert merge_evidence(a, a) == a == merge_evidence(a, ())


_stats = st.builds(
    SessionStats,
    *[st.integers(-9, 9)] * 4,
    st.lists(st.integers(-3, 3), max_size=3).map(tuple),
    st.integers(0, 9),
)


@given(_stats, _stats, _stats)
def test_sums_are_associative_and_commutative_and_round_trip(a, b, c):
    assert merge_stats(a, b) == merge_stats(b, a)
    assert merge_stats(merge_stats(a, b), c) == merge_stats(a, merge_stats(b, c))
    assert StatsRows().decode(StatsRows().encode(a)) == a


_rows = st.builds(UserSessions, st.integers(0, 3), sets())


@given(_rows, _rows, _rows)
def test_the_later_version_of_a_row_wins_in_any_order_and_round_trips(a, b, c):
    rows = UserRows()
    assert rows.merge(a, b) == rows.merge(b, a)
    assert rows.merge(rows.merge(a, b), c) == rows.merge(a, rows.merge(b, c))
    assert rows.merge(a, b).version == max(a.version, b.version)
    assert rows.decode(rows.encode(a)) == a


@given(sets(), sets())
def test_partials_round_trip_and_are_consistent(a: Sessions, b: Sessions):
    def of(sessions: Sessions) -> Partial:
        return Partial(
            GAP, tuple(msgspec.structs.replace(s, closed=(), number=0) for s in sessions)
        )

    partial = merge_partials(of(a), of(b))
    assert consistent(partial) == bool(partial.sessions)
    if partial.sessions:
        key = ("users", "ü", 7)
        assert decode_partial(encode_partial(key, partial)) == (key, partial)


def test_partials_that_contradict_themselves_are_refused():
    good = Session(10, 20, 2, 1, (), ("",), 5)
    broken = [
        Partial(GAP, ()),
        Partial(GAP, (msgspec.structs.replace(good, end=9),)),
        Partial(GAP, (msgspec.structs.replace(good, count=0, pages=0),)),
        Partial(GAP, (msgspec.structs.replace(good, pages=3),)),
        Partial(GAP, (msgspec.structs.replace(good, lanes=()),)),
        Partial(GAP, (msgspec.structs.replace(good, steps=((9,),)),)),
        Partial(GAP, (msgspec.structs.replace(good, steps=((12, 11),)),)),
        Partial(GAP, (msgspec.structs.replace(good, closed=(Closed(10, 20, 2, 1, 0, 1),)),)),
        Partial(GAP, (msgspec.structs.replace(good, number=1),)),
        Partial(GAP, (good, msgspec.structs.replace(good, start=30, end=31))),
    ]
    assert consistent(Partial(GAP, (good,)))
    assert [consistent(each) for each in broken] == [False] * len(broken)


@given(st.lists(st.tuples(_times, st.sampled_from(STEPS)), min_size=1, max_size=12))
def test_the_depth_of_a_funnel_is_that_of_a_plain_search(taken: list[tuple[int, str]]):
    parts = [tuple((time,) if name == step else () for step in STEPS) for time, name in taken]
    whole = reduce(merge_evidence, parts, ())
    assert depth(whole) == plain_depth([(t, f"/{name}") for t, name in taken], STEPS)


# -- the agents against a plain loop -------------------------------------------------------

Visit = tuple[str, int, str]
"""User, minutes after 10:00, endpoint."""

_visits = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.integers(0, 600),
        st.sampled_from(["/view", "/cart", "/purchase", "/other"]),
    ),
    min_size=1,
    max_size=40,
)


def play(visits: list[Visit], order: list[int], cuts: set[int], partitions: int) -> Rig:
    """Feed visits in an order, in batches, over partitions; then let time pass."""
    rig = Rig(partitions=partitions)
    batch: list[bytes] = []
    for place, number in enumerate(order):
        user, minute, endpoint = visits[number]
        batch.append(event(TEN + minute * 60_000, user, endpoint))
        if place in cuts or place == len(order) - 1:
            rig.feed(batch, partition=number % partitions)
            batch = []
    rig.time("22:00")
    return rig


@settings(max_examples=60)
@given(_visits, st.data(), st.integers(1, 3))
def test_sessions_are_those_of_a_plain_loop_in_any_order_over_any_partitions(
    visits: list[Visit], data: st.DataObject, partitions: int
):
    order = data.draw(st.permutations(range(len(visits))))
    cuts = data.draw(st.sets(st.integers(0, len(visits))))
    rig = play(visits, order, cuts, partitions)
    standing = rig.standing().values()
    found = sorted((s["user"], s["start"], s["end"], s["count"], len(s["steps"])) for s in standing)
    wanted = []
    for user in {user for user, _, _ in visits}:
        mine = [(TEN + minute * 60_000, page) for who, minute, page in visits if who == user]
        for start, end, count in plain_sessions((time for time, _ in mine), HOUR // 2):
            within = [each for each in mine if start <= each[0] <= end]
            wanted.append((user, start, end, count, plain_depth(within, STEPS)))
    assert found == sorted(wanted)
    assert rig.open() == 0
    assert rig.total() == len(found)
    assert rig.total("events") == len(visits)
    assert rig.total("duration_ms") == sum(s["duration_ms"] for s in standing)
    converted = sum(s["converted"] for s in standing)
    reached = [row.reached[2:] for key, row in rig.stats().items() if len(key) == 16]
    assert sum(map(sum, reached)) == converted
