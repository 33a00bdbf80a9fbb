"""A user with more sessions than a row holds: no id is said twice, and no event is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables.sessions import closing
from tables.sessions.rows import session_id
from tables.sessions.spec import SessionSpec
from tests.sessions.sessions_driver import DAY, HOUR, MINUTE, TEN, Rig, event, users

SPEC = users(gap_ms=MINUTE, conversion=None)
LATER = TEN + 3 * HOUR

_batches = st.lists(st.lists(st.integers(0, 24), min_size=1, max_size=4), min_size=1, max_size=25)
"""Batches of events: half minutes after 10:00, in any order."""


def fed(batches: list[list[int]], sessions_max: int, spec: SessionSpec = SPEC) -> Rig:
    """Everything fed, and closed by time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "SESSIONS_MAX", sessions_max)
        rig = Rig((spec,))
        for number, batch in enumerate(batches):
            values = [event(TEN + each * 2 * MINUTE) for each in batch]
            rig.feed(values, lane="" if number % 3 else "f-1")
        rig.feed([event(LATER, None)])
        rig.silence(HOUR)
    return rig


def said(rig: Rig) -> list[dict[str, Any]]:
    return [{key: each[key] for key in each if key != "user"} for each in rig.closed()]


@given(_batches, st.integers(1, 4))
@settings(max_examples=60)
def test_no_id_is_said_twice_with_one_revision_whatever_comes_in_whatever_order(
    batches: list[list[int]], sessions_max: int
) -> None:
    rig = fed(batches, sessions_max)
    named = [(each["id"], each["revision"]) for each in rig.closed()]
    assert len(named) == len(set(named))
    standing = rig.standing()
    assert sum(each["count"] for each in standing.values()) == sum(map(len, batches))
    assert rig.total() == len(standing)
    assert rig.total("events") == sum(map(len, batches))
    assert rig.open() == 0
    assert len(rig.row()) <= sessions_max
    assert said(fed(batches, sessions_max)) == said(rig)


def test_a_second_session_of_one_start_has_an_id_of_its_own() -> None:
    rig = fed([[0], [5], [10], [0], [0]], 2)
    first = [each for each in rig.closed() if each["start"] == TEN]
    assert [each["revision"] for each in first] == [1, 1, 1]
    assert len({each["id"] for each in first}) == 3
    assert first[0]["id"] == session_id(SPEC.fingerprint, "u", TEN)


def test_a_kind_declared_with_another_gap_says_other_ids() -> None:
    said = [
        {each["id"] for each in fed([[0], [5], [10]], 9, spec).closed()}
        for spec in (SPEC, replace(SPEC, gap_ms=2 * SPEC.gap_ms))
    ]
    assert all(said)
    assert not said[0] & said[1]


def test_a_start_that_was_said_within_a_session_that_left_is_not_said_again() -> None:
    half = MINUTE // 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "SESSIONS_MAX", 1)
        rig = Rig((SPEC,))
        rig.feed([event(TEN + half)], lane="f-1")
        rig.silence(10 * MINUTE)  # said
        rig.feed([event(TEN)], lane="f-1")  # and said again, as of ten
        rig.silence(10 * MINUTE)
        rig.feed([event(TEN + HOUR)], lane="f-1")  # it leaves
        rig.feed([event(TEN + half)], lane="f-1")
        rig.silence(10 * MINUTE)
    named = [(each["id"], each["revision"]) for each in rig.closed()]
    assert len(named) == 4 == len(set(named))


def test_an_id_does_not_come_back_once_its_session_left_by_retention() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "SESSIONS_MAX", 2)
        rig = Rig((SPEC,))
        for minutes in (0, 10, 20):  # the first leaves for want of room
            rig.feed([event(TEN + minutes * MINUTE)], lane="f-1")
        for second in (1, 2, 3):
            rig.feed([event(TEN)], lane="f-3")  # there is room for it, while the last is kept
            patch.setattr(closing, "SESSIONS_MAX", 9)
            for day in range(4):
                rig.feed([event(TEN + 20 * MINUTE + 10 * second + day)], lane="f-2")
                rig.silence(DAY, HOUR)
            assert [each.start for each in rig.row()] == [TEN + 20 * MINUTE]
    named = [(each["id"], each["revision"]) for each in rig.closed()]
    assert len(named) == len(set(named))
