"""What is fetched and not processed is bounded, and who holds nothing is never paused."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from app.engine.epoch import TaskId
from app.engine.inbox import (
    DELIVERIES_MAX,
    PREFETCH_MIN,
    Inbox,
    fetch_bounds,
)

BOUND = 1_000
FETCH_MAX = 200
TASKS = [TaskId("a", 0), TaskId("a", 1), TaskId("b", 0)]
A, B, C = TASKS


def test_partitions_that_hold_something_pause_at_four_fifths_and_go_on_at_half() -> None:
    inbox = Inbox(BOUND)
    inbox.add(A, 400)
    inbox.add(B, 399)
    assert inbox.paused == set()
    inbox.add(B, 1)
    assert inbox.paused == {A, B}
    assert inbox.done(B, 1) == set()
    assert inbox.paused == {A, B}
    inbox.add(C, 101)
    assert inbox.done(A, 400) == {A, B, C}
    assert inbox.paused == set()


def test_a_stuck_partition_keeps_its_room_and_the_others_move() -> None:
    inbox = Inbox(BOUND)
    inbox.add(A, 850)
    for _ in range(10):
        assert B not in inbox.paused
        assert not inbox.full
        inbox.add(B, 140)
        assert inbox.paused == {A, B}
        assert inbox.done(B, 140) == {B}
    assert inbox.paused == {A}


def test_at_the_bound_nothing_is_fetched_of_anybody() -> None:
    inbox = Inbox(BOUND)
    inbox.add(A, 850)
    inbox.add(B, 150)
    assert inbox.full
    inbox.done(B, 150)
    assert not inbox.full


def test_many_small_deliveries_pause_their_partition_only() -> None:
    inbox = Inbox(BOUND)
    for _ in range(DELIVERIES_MAX):
        assert inbox.paused == set()
        inbox.add(A, 1)
    assert inbox.paused == {A}
    assert inbox.done(A, 1) == set()
    assert inbox.done(A, 1) == {A}


def test_a_halted_partition_stays_paused_until_it_is_started_anew() -> None:
    inbox = Inbox(BOUND)
    inbox.add(A, 900)
    inbox.stop(A)
    assert inbox.done(A, 900) == set()
    assert inbox.paused == {A}
    inbox.clear()
    assert (inbox.paused, inbox.held_bytes) == (set(), 0)


def test_what_came_before_a_clear_frees_nothing() -> None:
    inbox = Inbox(BOUND)
    inbox.add(A, 300)
    inbox.clear()
    assert inbox.done(A, 300) == set()
    inbox.add(A, 100)
    inbox.done(A, 300)
    assert inbox.held_bytes == 0


moves = st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, FETCH_MAX), st.booleans()))


@given(moves)
def test_whatever_comes_and_goes_the_bound_holds_and_all_go_on_in_the_end(
    steps: list[tuple[TaskId, int, bool]],
) -> None:
    inbox = Inbox(BOUND)
    waiting: dict[TaskId, deque[int]] = {task: deque() for task in TASKS}
    active = set(TASKS)
    for task, size, comes in steps:
        if comes and not inbox.full and task not in inbox.paused:
            inbox.add(task, size)
            waiting[task].append(size)
        elif waiting[task]:
            active |= inbox.done(task, waiting[task].popleft())
        active -= inbox.paused
        assert active == set(TASKS) - inbox.paused, "who is resumed is told"
        assert inbox.held_bytes == sum(map(sum, waiting.values())) <= BOUND + FETCH_MAX
        assert not inbox.paused & {each for each in TASKS if not waiting[each]}
    for task, left in waiting.items():
        for size in left:
            active |= inbox.done(task, size)
    assert (active, inbox.held_bytes) == (set(TASKS), 0)


@given(st.integers(8 << 20, 16 << 30), st.integers(1, 768))
def test_what_is_fetched_ahead_has_a_part_of_the_bound(bytes_max: int, partitions: int) -> None:
    bounds = fetch_bounds(bytes_max, partitions)
    ahead = bounds.prefetch_bytes * partitions
    assert ahead <= max(bytes_max // 4, PREFETCH_MIN * partitions)
    assert bounds.held_bytes + bounds.prefetch_bytes_all <= bytes_max
    assert 2 * bounds.chunk_bytes <= bounds.held_bytes // 5
