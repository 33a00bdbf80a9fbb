"""Commits and hand-overs: an epoch counts wholly or not at all, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.engine.chunks import LaneMark
from app.engine.effects import Effects, Partials, View
from app.engine.epoch import Epoch, Rekeyed, TaskId
from app.engine.lanes import LIVE, Lane, Lanes
from app.engine.membership import Membership
from app.engine.store import Store, StoreError
from app.engine.store_memory import StoreMemory
from app.engine.task import TaskState
from app.engine.transaction import CommitFailedError
from tests.engine.rig import (
    COUNTS,
    MEMBERSHIP,
    PATIENCE_S,
    REPARTITION,
    SOURCE,
    Rig,
    batch,
    counting_agent,
)

BROKEN = CommitFailedError("broken", membership_lost=False, producer_dead=False)
EXPELLED = CommitFailedError("who are you", membership_lost=True, producer_dead=False)
NEXT = Membership("group", 4, "member-1")


async def test_a_failed_epoch_drops_exactly_what_was_not_committed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    assert await rig.commit()
    await rig.feed(batch([b"a", b"b"], 1))
    old, holds = rig.engine.token, rig.flow.holds
    rig.writer.failures.append(BROKEN)
    assert not await rig.commit()
    assert rig.engine.token != old
    assert rig.flow.holds == holds + 1
    assert await rig.flow.released() == {SOURCE: 1}
    assert (rig.working(b"a"), rig.working(b"b"), rig.committed(b"a")) == (1, None, 1)
    await rig.feed(batch([b"a", b"b"], 1))
    assert await rig.commit()
    assert (rig.committed(b"a"), rig.committed(b"b")) == (2, 1)
    assert rig.metric("engine_epochs_total", outcome="failed") == 1
    await rig.engine.close()


async def test_a_failed_epoch_takes_the_open_one_with_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.gate.clear()
    rig.writer.failures.append(BROKEN)
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.commit())
    await rig.writer.in_flight()
    await rig.feed(batch([b"a", b"b"], 1))
    assert rig.working(b"a") == 2
    rig.writer.gate.set()
    assert not await committing
    assert await rig.flow.released() == {SOURCE: 0}
    assert (rig.working(b"a"), rig.working(b"b")) == (None, None)
    assert rig.engine.take() is None
    await rig.engine.close()


async def test_the_next_epoch_fills_while_one_is_in_flight(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.gate.clear()
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.commit())
    await rig.writer.in_flight()
    await rig.feed(batch([b"a"], 1))
    assert (rig.working(b"a"), rig.committed(b"a")) == (2, None)
    rig.writer.gate.set()
    assert await committing
    assert (rig.working(b"a"), rig.committed(b"a")) == (2, 1)
    assert await rig.commit()
    assert [e.tasks[SOURCE].changes for e in rig.writer.epochs] == [
        {COUNTS: {b"a": 1}},
        {COUNTS: {b"a": 2}},
    ]
    await rig.engine.close()


async def test_the_commit_loop_outlives_a_failed_epoch(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.failures.append(BROKEN)
    running = asyncio.create_task(rig.engine.commits.run())
    await rig.feed(batch([b"a"]))
    assert await rig.flow.released() == {SOURCE: 0}
    committed = asyncio.Event()
    rig.engine.listeners["source", "counts"].append(lambda _p, _rows: committed.set())
    await rig.feed(batch([b"a"]))
    await asyncio.wait_for(committed.wait(), PATIENCE_S)
    assert rig.committed(b"a") == 1
    running.cancel()
    await asyncio.wait([running])
    await rig.engine.close()


async def test_a_lost_membership_waits_for_the_rebalance_that_follows(tmp_path: Path) -> None:
    rig = Rig(tmp_path, changes={"session_timeout_ms": 3_600_000})
    await rig.start()
    await rig.feed(batch([b"a"]))
    rig.writer.failures.append(EXPELLED)
    assert not await rig.commit()
    runs = rig.starter.runs
    await asyncio.sleep(0)
    assert (rig.starter.runs, rig.flow.waiting) == (runs, 0)
    await rig.engine.assign([SOURCE], NEXT)
    assert await rig.flow.released() == {SOURCE: 0}
    assert rig.engine.membership == NEXT
    await rig.engine.close()


async def test_an_epoch_carries_the_membership_it_was_filled_under(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.engine.assign([SOURCE], NEXT)
    await rig.flow.released()
    await rig.feed(batch([b"a"], 1))
    await rig.commit()
    assert [epoch.membership for epoch in rig.writer.epochs] == [MEMBERSHIP, NEXT]
    await rig.engine.close()


async def test_a_state_that_cannot_be_written_fails_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    store = rig.engine.tasks[SOURCE].store
    assert store is not None

    def full(*_: Any) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", full)
        assert not await rig.commit()
    assert await rig.flow.released() == {SOURCE: 1}
    await rig.engine.close()


async def test_a_state_that_cannot_be_read_starts_the_partition_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()

    def unreadable(*_: Any) -> bytes:
        raise StoreError("checksum mismatch")

    store = rig.engine.tasks[SOURCE].store
    assert store is not None
    with monkeypatch.context() as patched:
        patched.setattr(store, "get", unreadable)
        await rig.feed(batch([b"a"]))
    assert await rig.flow.released() == {SOURCE: 0}
    assert rig.engine.take() is None
    await rig.feed(batch([b"a"]))
    assert rig.working(b"a") == 1
    await rig.engine.close()


async def test_a_revoke_commits_what_is_done_and_an_end_closes_the_stores(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a", b"b"]))
    task = rig.engine.tasks[SOURCE]
    await rig.engine.revoke()
    assert [epoch.tasks[SOURCE].position for epoch in rig.writer.epochs] == [2]
    assert (task.state, task.store) == (TaskState.CLOSED, None)
    assert (rig.engine.tasks, rig.engine.membership) == ({}, None)
    await rig.engine.close()
    free = Store.open(tmp_path / "state" / "source" / "0", [COUNTS.identity], StoreMemory(8 << 20))
    assert free.get(COUNTS.identity, b"a") == b"1"
    assert free.positions().source == 2
    free.close()


async def test_a_revoke_waits_for_the_epoch_in_flight_and_commits_the_open_one(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.gate.clear()
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.commit())
    await rig.writer.in_flight()
    await rig.feed(batch([b"a"], 1))
    before = rig.engine.token
    revoking = asyncio.create_task(rig.engine.revoke())
    await asyncio.sleep(0)
    await rig.feed(batch([b"a"], 2), token=before)
    rig.writer.gate.set()
    assert await committing
    await asyncio.wait_for(revoking, PATIENCE_S)
    assert [epoch.tasks[SOURCE].position for epoch in rig.writer.epochs] == [1, 2]
    await rig.engine.close()


async def test_a_revoke_whose_commit_fails_hands_over_all_the_same(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    rig.writer.failures.append(EXPELLED)
    await asyncio.wait_for(rig.engine.revoke(), PATIENCE_S)
    assert (rig.writer.epochs, rig.engine.tasks, rig.flow.waiting) == ([], {}, 0)
    await rig.start()
    assert rig.working(b"a") is None
    await rig.engine.close()


async def test_partitions_that_come_back_go_on_where_they_were_committed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.engine.assign([TaskId("source", 1)], NEXT)
    await rig.flow.released()
    await rig.engine.assign([SOURCE], NEXT)
    assert await rig.flow.released() == {SOURCE: 1}
    assert rig.working(b"a") == 1
    await rig.engine.close()


async def test_listeners_hear_of_commits_and_of_nothing_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    heard: list[tuple[int, dict[bytes, Any]]] = []

    def listen(partition: int, rows: Mapping[bytes, Any]) -> None:
        heard.append((partition, dict(rows)))

    rig.engine.listeners["source", "counts"].append(listen)
    await rig.start()
    await rig.feed(batch([b"a"]))
    assert heard == []
    rig.writer.failures.append(BROKEN)
    await rig.commit()
    await rig.flow.released()
    assert heard == []
    await rig.feed(batch([b"a", b"b"]))
    await rig.commit()
    assert heard == [(0, {b"a": 1, b"b": 1})]
    await rig.engine.close()


async def test_closing_commits_and_closes_the_writer(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.engine.close()
    assert len(rig.writer.epochs) == 1
    assert rig.writer.closed


# -- lanes on their way to the global stage -----------------------------------------------


def emitting_agent(**changes: Any) -> Any:
    """Emits one partial per record and moves the live lane to the record's value."""

    def step(batch: Any, view: View, now_ms: int) -> Effects:
        event_ms = max(int(value) for value in batch.values)
        partials: dict[str, int] = {"k": len(batch)}
        return Effects(
            partials=[Partials(REPARTITION, partials)],
            lanes=view.lanes.advanced({LIVE: (event_ms, now_ms)}),
            applied=len(batch),
        )

    def tick(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        retired = view.lanes.retired(now_ms, 30_000)
        return Effects(lanes=None if retired is view.lanes else retired)

    return counting_agent(
        step=step, tick=tick, tables=(), changelog=None, repartitions=(REPARTITION,), **changes
    )


def the_partials(epoch: Epoch) -> Rekeyed:
    [rekeyed] = epoch.rekeyed
    return rekeyed


async def test_marks_ride_with_partials_and_are_broadcast_once_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    broadcasts = []
    for number in range(4):
        await rig.feed(batch([b"%d" % (100 + number)], number))
        await rig.commit()
        taken = the_partials(rig.writer.epochs[-1])
        assert taken.values == {"k": 1}
        assert taken.marks["0/"].watermark_ms == 100 + number
        broadcasts.append(taken.broadcast)
        rig.clock.advance(0.4)
    assert broadcasts == [True, False, False, True]
    await rig.engine.close()


async def test_marks_held_back_are_broadcast_without_another_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    for number in range(2):
        await rig.feed(batch([b"%d" % (100 + number)], number))
        await rig.commit()
    assert len(rig.writer.epochs) == 2
    await rig.commit()
    assert len(rig.writer.epochs) == 2
    rig.clock.advance(1.0)
    await rig.engine.tick()
    assert rig.engine.commits.work.is_set()
    await rig.commit()
    taken = the_partials(rig.writer.epochs[-1])
    assert (taken.values, taken.broadcast) == ({}, True)
    assert taken.marks["0/"].watermark_ms == 101
    assert rig.writer.epochs[-1].tasks[SOURCE].position == 2
    await rig.engine.close()


async def test_a_lane_that_falls_idle_is_broadcast_as_idle(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    await rig.feed(batch([b"100"]))
    await rig.commit()
    rig.clock.advance(31.0)
    await rig.engine.tick()
    await rig.commit()
    taken = the_partials(rig.writer.epochs[-1])
    assert taken.broadcast
    assert taken.marks == {"0/": LaneMark(1_000_000, 100, idle=True)}
    assert rig.writer.committed(SOURCE).lanes.by_id[LIVE].idle
    await rig.engine.close()


async def test_a_start_tells_the_global_stage_of_the_lanes_it_found(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    await rig.feed(batch([b"100"]))
    await rig.start()
    rig.clock.advance(1.0)
    await rig.commit()
    taken = the_partials(rig.writer.epochs[-1])
    assert (taken.values, taken.marks["0/"].watermark_ms) == ({}, 100)
    await rig.engine.close()


async def test_lanes_that_were_not_committed_are_decided_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    await rig.feed(batch([b"100"]))
    await rig.commit()
    await rig.feed(batch([b"900"], 1))
    rig.writer.failures.append(BROKEN)
    await rig.commit()
    await rig.flow.released()
    assert rig.engine.tasks[SOURCE].lanes == Lanes().advanced({LIVE: (100, 1_000_000)})
    await rig.engine.close()


async def test_that_a_lane_is_gone_is_told_in_the_epoch_that_commits_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    await rig.feed(batch([b"100"]))
    rig.engine.tasks[SOURCE].apply(Effects(lanes=Lanes({"file-1": Lane(7, 1_000_000)})))
    await rig.commit()
    rig.clock.advance(29.5)
    await rig.feed(batch([b"101"], 1))
    await rig.commit()  # a broadcast: the next is due in a second
    rig.clock.advance(0.5)
    await rig.engine.tick()
    await rig.commit()
    taken = the_partials(rig.writer.epochs[-1])
    assert "file-1" not in rig.writer.committed(SOURCE).lanes.by_id
    assert taken.broadcast
    assert taken.marks["0/file-1"].idle
    await rig.engine.close()


async def test_an_event_time_tick_that_is_still_due_makes_an_epoch_of_its_own(
    tmp_path: Path,
) -> None:
    ticks: list[int] = []

    def on_time(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        ticks.append(now_ms)
        return Effects()

    rig = Rig(tmp_path, [counting_agent(on_time=on_time)])
    await rig.start()  # what was to be done when the partition was lost is not known
    rig.engine.commits.work.clear()
    await rig.engine.tick()
    assert rig.engine.commits.work.is_set()
    for _ in range(3):
        await rig.commit()
    assert len(ticks) == 2
    await rig.engine.close()
