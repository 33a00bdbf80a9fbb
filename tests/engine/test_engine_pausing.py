"""Pausing, as far as it needs no consumer: who is taken out of the fetch, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

from faust.types import TP

from app.engine.batch import RecordBatch
from app.engine.delivery import Delivery
from app.engine.effects import Effects, View
from app.engine.epoch import TaskId
from app.engine.faust_pausing import Pausing
from app.engine.inbox import DELIVERIES_MAX, fetch_bounds
from app.engine.spec import FailurePolicy
from tests.engine.rig import PATIENCE_S, SOURCE, Rig, batch, counting_agent

OTHER = TaskId("source", 1)
A, B = TP("source", 0), TP("source", 1)
SIZE = 100


def failing_step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    raise ArithmeticError("poison")


async def pausing_of(rig: Rig) -> Pausing:
    """Pausing of a running engine; its consumer thread is not asked for anything here."""
    await rig.start(SOURCE, OTHER)
    return Pausing(rig.engine, fetch_bounds(64 << 20, 2), None)


def delivered(rig: Rig, pausing: Pausing, partition: int = 0) -> Delivery:
    pausing.inbox.add(TaskId("source", partition), SIZE)
    return Delivery(batch([b"a"], partition=partition), rig.engine.token, SIZE)


async def test_a_paused_partition_is_not_asked_for_and_the_others_are(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pausing, active = await pausing_of(rig), {A, B}
    for _ in range(DELIVERIES_MAX):
        assert await pausing.room(active)
        assert active == {A, B}
        delivered(rig, pausing)
    assert await pausing.room(active)
    assert active == {B}
    await rig.engine.close()


async def test_when_all_are_paused_the_fetch_waits_for_what_is_processed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pausing, active = await pausing_of(rig), {A}
    held = [delivered(rig, pausing) for _ in range(DELIVERIES_MAX)]
    waiting = asyncio.create_task(pausing.room(active))
    await asyncio.sleep(0)
    assert not waiting.done()
    pausing.done(held[0], active)
    assert not await asyncio.wait_for(waiting, PATIENCE_S)
    assert active == set()
    await rig.engine.close()


async def test_a_delivery_of_an_older_assignment_frees_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pausing = await pausing_of(rig)
    old = delivered(rig, pausing)
    await rig.start(SOURCE, OTHER)
    pausing.clear()
    delivered(rig, pausing)
    pausing.done(old, {A, B})
    assert pausing.inbox.held_bytes == SIZE
    await rig.engine.close()


async def test_a_halted_partition_is_not_fetched_until_all_begins_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=failing_step, on_failure=FailurePolicy.STOP)])
    pausing, active = await pausing_of(rig), {A, B}
    delivery = delivered(rig, pausing)
    await rig.engine.process(delivery)
    pausing.done(delivery, active)
    assert await pausing.room(active)
    assert (active, pausing.inbox.paused) == ({B}, {SOURCE})
    pausing.clear()
    assert pausing.inbox.paused == set()
    await rig.engine.close()
