"""What nobody foresaw stops nothing for good, and never lets an epoch skip a record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Partials, Reject, View
from app.engine.epoch import TaskId
from app.engine.progress import Progress
from app.engine.restore import Restorer
from app.engine.starts import Start
from app.engine.store import Positions, Store, StoreError
from app.engine.store_memory import StoreMemory
from app.engine.task import Task
from app.engine.transaction import CommitFailedError
from tests.engine.rig import (
    COUNTS,
    MEMBERSHIP,
    REPARTITION,
    SOURCE,
    Rig,
    batch,
    count_step,
    counting_agent,
    engine_config,
)
from tests.engine.test_engine_commits import emitting_agent

BROKEN = CommitFailedError("broken", membership_lost=False, producer_dead=False)


@pytest.mark.parametrize("error", [SystemError("from C"), ValueError("cannot encode")])
async def test_the_commit_loop_outlives_whatever_a_writer_raises(
    tmp_path: Path, error: Exception
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.failures.append(error)
    running = asyncio.create_task(rig.engine.commits.run())
    await rig.feed(batch([b"a"]))
    assert await rig.flow.released() == {SOURCE: 0}
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    await rig.engine.close()


@pytest.mark.parametrize("error", [BROKEN, ValueError("cannot encode")])
async def test_a_closing_engine_does_not_commit_past_an_epoch_that_failed(
    tmp_path: Path, error: Exception
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    rig.writer.failures.append(error)
    rig.writer.gate.clear()
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.engine.commits.commit())
    await rig.writer.in_flight()
    await rig.feed(batch([b"b"], 1))
    committing.cancel()
    await asyncio.wait([committing])
    rig.writer.gate.set()
    await rig.engine.close()
    assert rig.writer.epochs == []


@pytest.mark.slow
async def test_partitions_are_started_again_when_a_start_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    starts = rig.starter.starts

    async def broken_once(_tasks: Sequence[Task]) -> Mapping[TaskId, Start]:
        monkeypatch.setattr(rig.starter, "starts", starts)
        raise KeyError("unforeseen")

    monkeypatch.setattr(rig.starter, "starts", broken_once)
    await rig.engine.assign([SOURCE], MEMBERSHIP)
    assert await rig.flow.released() == {SOURCE: 0}
    await rig.engine.close()


async def test_a_reject_of_a_record_that_is_not_there_costs_the_record_that_caused_it(
    tmp_path: Path,
) -> None:
    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        effects = count_step(batch, view, now_ms)
        if b"bad" in batch.values:
            effects.applied -= 1
            effects.rejects.append(Reject(99, "wrong index"))
        return effects

    rig = Rig(tmp_path, [counting_agent(step=step)])
    await rig.start()
    await rig.feed(batch([b"a", b"bad", b"c"]))
    await rig.commit()
    [epoch] = rig.writer.epochs
    assert [output.value for output in epoch.outputs] == [b"bad"]
    assert epoch.tasks[SOURCE].changes == {COUNTS: {b"a": 1, b"c": 1}}
    await rig.engine.close()


async def test_a_row_that_does_not_decode_stops_its_batch_and_applies_no_half_of_it(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    store = rig.engine.tasks[SOURCE].store
    assert store is not None
    store.write({COUNTS.identity: {b"a": b"garbage"}}, Positions())
    await rig.feed(batch([b"before", b"a", b"after"]))
    assert rig.engine.take() is None
    assert await rig.flow.released() == {SOURCE: 0}
    await rig.engine.close()


async def test_a_tick_that_raises_does_not_end_the_engine(tmp_path: Path) -> None:
    def tick(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        raise ValueError("broken")

    rig = Rig(tmp_path, [counting_agent(tick=tick)])
    await rig.start()
    await rig.engine.tick()
    assert await rig.flow.released() == {SOURCE: 0}
    await rig.engine.close()


async def test_a_listener_that_raises_fails_no_commit_and_silences_no_other(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    heard: dict[bytes, Any] = {}

    def broken(_partition: int, _rows: Mapping[bytes, Any]) -> None:
        raise ZeroDivisionError

    rig.engine.listeners["source", "counts"] += [broken, lambda _p, rows: heard.update(rows)]
    await rig.start()
    await rig.feed(batch([b"a"]))
    assert await rig.commit()
    assert heard == {b"a": 1}
    await rig.engine.close()


async def test_listeners_hear_of_an_epoch_that_commits_while_another_read_fails(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    heard: dict[bytes, Any] = {}
    rig.engine.listeners["source", "counts"].append(lambda _p, rows: heard.update(rows))
    await rig.start()
    rig.writer.gate.clear()
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.commit())
    await rig.writer.in_flight()
    rig.engine.commit_failed(StoreError("another partition"))
    rig.writer.gate.set()
    assert await committing
    assert heard == {b"a": 1}
    assert await rig.flow.released() == {SOURCE: 1}
    await rig.engine.close()


async def test_marks_that_were_taken_know_nothing_of_later_batches(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [emitting_agent()])
    await rig.start()
    await rig.feed(batch([b"100"]))
    await rig.commit()
    await rig.feed(batch([b"101"], 1))
    epoch = rig.engine.take()
    await rig.feed(batch([b"999"], 2))
    assert epoch is not None
    assert epoch.rekeyed[0].marks["0/"].watermark_ms == 101
    await rig.engine.close()


async def test_partials_nobody_declared_are_not_lost_in_silence(tmp_path: Path) -> None:
    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        return Effects(partials=[Partials(REPARTITION, {"k": 1})], applied=len(batch))

    rig = Rig(tmp_path, [counting_agent(step=step)])
    await rig.start()
    await rig.feed(batch([b"a"]))
    assert await rig.flow.released() == {SOURCE: 0}
    assert rig.writer.epochs == []
    await rig.engine.close()


def test_a_worker_without_partitions_has_nothing_to_ask(tmp_path: Path) -> None:
    restorer = Restorer(engine_config(tmp_path))
    assert restorer.start_points([], Progress(), lambda: False) == {}


def test_a_reset_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "0", ["t"], StoreMemory(8 << 20))
    real = rocksdict.Rdict

    class FullDisk:
        list_cf = staticmethod(real.list_cf)

        def __init__(self, *_: object) -> None:
            raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(rocksdict, "Rdict", FullDisk)
        with pytest.raises(StoreError):
            store.reset()
        with pytest.raises(StoreError):
            store.positions()
    assert store.positions() == Positions(None, None)
    store.close()


def test_a_reader_that_never_finishes_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    memory = StoreMemory(8 << 20)
    store = Store.open(tmp_path / "0", ["t"], memory)
    store.write({"t": {b"%d" % i: b"x" for i in range(10)}}, Positions(3, 3))
    reading = store.range("t", b"", None, limit=10)
    assert next(reading) == (b"0", b"x")
    store.close()
    again = Store.open(tmp_path / "0", ["t"], memory)
    assert again.positions() == Positions(3, 3)
    again.close()
