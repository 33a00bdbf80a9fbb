"""The engine takes batches: each record's effects once, in one epoch, under one token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.engine import filling as filling_module
from app.engine.batch import RecordBatch, header
from app.engine.effects import Effects, Late, Output, Reject, TableSpec, View
from app.engine.epoch import TaskId
from app.engine.layers import ROW_OVERHEAD_BYTES
from app.engine.store_memory import DECODED_FACTOR
from tests.engine.rig import (
    COUNTS,
    PATIENCE_S,
    SOURCE,
    Rig,
    batch,
    count_step,
    counting_agent,
)


async def turns() -> None:
    """Let everything that can run on the loop run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_batch_changes_what_the_next_one_sees_and_queries_see_the_commit(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a", b"b", b"a"]))
    assert (rig.working(b"a"), rig.committed(b"a")) == (2, None)
    assert await rig.commit()
    assert (rig.committed(b"a"), rig.committed(b"b")) == (2, 1)
    [epoch] = rig.writer.epochs
    assert (epoch.tasks[SOURCE].position, epoch.events) == (3, 3)
    await rig.engine.close()


async def test_nothing_done_is_nothing_to_commit(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    assert await rig.commit()
    assert rig.writer.epochs == []
    await rig.engine.close()


async def test_a_batch_fetched_under_an_old_token_is_dropped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    old = rig.engine.token
    await rig.start()
    assert rig.engine.token != old
    await rig.feed(batch([b"a"]), token=old)
    assert rig.working(b"a") is None
    await rig.engine.close()


async def test_a_batch_of_a_partition_of_somebody_else_is_dropped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"], partition=1))
    await rig.feed(batch([b"a"], topic="other"))
    assert rig.engine.take() is None
    await rig.engine.close()


async def test_records_that_are_done_are_trimmed_off(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a", b"b"], 0))
    await rig.feed(batch([b"a", b"b", b"c"], 0))
    await rig.feed(batch([b"a"], 0))
    assert [rig.working(key) for key in (b"a", b"b", b"c")] == [1, 1, 1]
    assert rig.engine.tasks[SOURCE].position == 3
    await rig.engine.close()


async def test_partitions_commit_together_and_apart(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    other = TaskId("source", 1)
    await rig.start(SOURCE, other)
    await rig.feed(batch([b"a"]))
    await rig.feed(batch([b"a", b"a"], 10, partition=1))
    await rig.commit()
    await rig.feed(batch([b"a"], 12, partition=1))
    await rig.commit()
    first, second = rig.writer.epochs
    assert {task: commit.position for task, commit in first.tasks.items()} == {SOURCE: 1, other: 12}
    assert {task: commit.position for task, commit in second.tasks.items()} == {other: 13}
    assert (rig.committed(b"a"), rig.committed(b"a", other)) == (1, 3)
    await rig.engine.close()


def sorting_step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    """Each record ends as its value says."""
    effects = Effects()
    for index, value in enumerate(batch.values):
        if value == b"reject":
            effects.rejects.append(Reject(index, "is bad", "field"))
        elif value == b"late":
            effects.late.append(Late(index, "counts", 7))
        elif value == b"duplicate":
            effects.duplicates += 1
        elif value == b"poison":
            raise ArithmeticError("poison")
        else:
            effects.applied += 1
            effects.outputs.append(Output("out", value, b"%d" % batch.offsets[index]))
    return effects


async def test_every_record_ends_in_one_place_inside_the_epoch(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=sorting_step)])
    await rig.start()
    await rig.feed(
        batch([b"x", b"reject", b"late", b"duplicate", b"poison", b"y", b"poison", b"z"])
    )
    await rig.commit()
    [epoch] = rig.writer.epochs
    went = [(output.topic, header(output.headers, "original_offset")) for output in epoch.outputs]
    assert [(o.key, o.value) for o in epoch.outputs if o.topic == "out"] == [
        (b"x", b"0"),
        (b"y", b"5"),
        (b"z", b"7"),
    ]
    assert [offset for topic, offset in went if topic == "dead"] == [b"1", b"4", b"6"]
    assert [offset for topic, offset in went if topic == "late"] == [b"2"]
    ended = {
        outcome: rig.metric("engine_records_total", topic="source", outcome=outcome)
        for outcome in ("applied", "duplicate", "rejected", "late")
    }
    assert ended == {"applied": 3, "duplicate": 1, "rejected": 3, "late": 1}
    assert sum(ended.values()) == epoch.events == 8
    assert rig.metric("late_events_total", table="counts") == 1
    await rig.engine.close()


async def test_a_tick_rides_in_an_epoch_and_moves_no_position(tmp_path: Path) -> None:
    def tick(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        return Effects(
            deletes={"counts": [b"old"]} if view.table("counts").get(b"old") else {},
            updates={"counts": {b"ticks": 1}},
        )

    rig = Rig(tmp_path, [counting_agent(tick=tick)])
    await rig.start()
    await rig.feed(batch([b"old", b"new"]))
    await rig.commit()
    await rig.engine.tick()
    assert (rig.working(b"old"), rig.committed(b"old")) == (None, 1)
    await rig.commit()
    assert rig.writer.epochs[-1].tasks[SOURCE].position == 2
    assert [rig.committed(key) for key in (b"old", b"new", b"ticks")] == [None, 1, 1]
    await rig.engine.close()


async def test_a_tick_that_changes_nothing_makes_no_epoch(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(tick=lambda _partition, _view, _now: Effects())])
    await rig.start()
    await rig.engine.tick()
    await rig.commit()
    assert rig.writer.epochs == []
    await rig.engine.close()


async def test_only_running_partitions_are_ticked(tmp_path: Path) -> None:
    ticked: list[int] = []

    def tick(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        ticked.append(partition)
        return Effects()

    rig = Rig(tmp_path, [counting_agent(tick=tick)])
    await rig.start(SOURCE, TaskId("source", 1))
    rig.engine.tasks[SOURCE].halt("poison")
    await rig.engine.tick()
    assert ticked == [1]
    await rig.engine.close()


async def test_batches_wait_while_the_open_epoch_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_module, "OPEN_SIZE_MAX", 3)
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"%d" % i for i in range(5)]))
    waiting = asyncio.create_task(rig.feed(batch([b"next"], 5)))
    await turns()
    assert not waiting.done()
    assert rig.working(b"next") is None
    await rig.commit()
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert rig.working(b"next") == 1
    await rig.engine.close()


@pytest.mark.parametrize(("keys", "full"), [(2, False), (6, True)])
async def test_an_epoch_grows_while_its_events_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, full: bool
) -> None:
    """Rows of two tables for each key: one event of each makes more than it can add to."""
    monkeypatch.setattr(filling_module, "OPEN_SIZE", 3)
    other = TableSpec("other", "other-1", COUNTS.aggregate)

    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        counted = count_step(batch, view, now_ms)
        counted.updates["other"] = counted.updates["counts"]
        return counted

    rig = Rig(tmp_path, [counting_agent(step=step, tables=(COUNTS, other))])
    await rig.start()
    await rig.feed(batch([b"%d" % (i % keys) for i in range(6)]))
    more = asyncio.create_task(rig.feed(batch([b"next"], 6)))
    await turns()
    assert more.done() is not full
    await rig.commit()
    await asyncio.wait_for(more, PATIENCE_S)
    await rig.engine.close()


async def test_a_batch_that_waited_through_a_revoke_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_module, "OPEN_SIZE_MAX", 3)
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"%d" % i for i in range(5)]))
    waiting = asyncio.create_task(rig.feed(batch([b"next"], 5)))
    await turns()
    await rig.start()
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert rig.working(b"next") is None
    assert rig.engine.tasks[SOURCE].position == 5
    await rig.engine.close()


async def test_outputs_by_bytes_fill_an_epoch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_module, "OPEN_BYTES_MAX", 100)

    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        effects = count_step(batch, view, now_ms)
        effects.outputs.append(Output("out", None, bytes(101)))
        return effects

    rig = Rig(tmp_path, [counting_agent(step=step)])
    await rig.start()
    await rig.feed(batch([b"a"]))
    waiting = asyncio.create_task(rig.feed(batch([b"b"], 1)))
    await turns()
    assert not waiting.done()
    await rig.commit()
    await asyncio.wait_for(waiting, PATIENCE_S)
    await rig.engine.close()


async def test_large_rows_fill_an_epoch_by_what_they_take_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    task = rig.engine.tasks[SOURCE]
    await rig.feed(batch([b"a", b"b"]))
    await rig.commit()
    small = 2 * (ROW_OVERHEAD_BYTES + DECODED_FACTOR * len(b"1"))
    await rig.feed(batch([b"a", b"b"], 2))
    assert task.dirty_bytes == small
    await rig.commit()

    monkeypatch.setattr(filling_module, "OPEN_STATE_BYTES_MAX", small - 1)
    await rig.feed(batch([b"a", b"b"], 4))
    waiting = asyncio.create_task(rig.feed(batch([b"c"], 6)))
    await turns()
    assert not waiting.done()
    await rig.commit()
    await asyncio.wait_for(waiting, PATIENCE_S)
    assert rig.working(b"c") == 1
    await rig.engine.close()
