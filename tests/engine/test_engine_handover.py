"""A hand-over waits for its last commit so long and no longer, and is exact either way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.engine.clock import SystemClock
from app.engine.delivery import Delivery
from app.engine.engine import Engine
from app.engine.membership import Membership
from app.engine.metrics import EngineMetrics
from app.engine.store import Positions, StoreError
from app.engine.transaction import TransactionalWriter
from tests.engine.rig import (
    MEMBERSHIP,
    PATIENCE_S,
    SOURCE,
    RecordingFlow,
    Rig,
    batch,
    counting_agent,
)
from tests.engine.test_engine_fencing import joined
from tests.engine.test_engine_restore import World

NEXT = Membership("group", 4, "member-1")
SOON = {"session_timeout_ms": 200}
"""A hand-over gives up after half of it."""
NEVER = {"session_timeout_ms": 3_600_000}


def state_is_free(engine: Engine) -> None:
    """Fail unless whoever has the partition next can take and write its state."""
    store = engine._stores.take(SOURCE, counting_agent())
    assert store is not None
    store.write({}, store.positions())
    engine._stores.give(SOURCE, store)


@pytest.mark.parametrize("taken_by", ["the commit loop", "the hand-over"])
async def test_a_commit_that_hangs_does_not_hold_the_hand_over(
    tmp_path: Path, taken_by: str
) -> None:
    rig = Rig(tmp_path, changes=SOON)
    await rig.start()
    await rig.feed(batch([b"a"]))
    rig.writer.gate.clear()
    committing: Sequence[asyncio.Task[bool]] = ()
    if taken_by == "the commit loop":
        committing = [asyncio.create_task(rig.commit())]
        await rig.writer.in_flight()
        await rig.feed(batch([b"b"], 1))
    await asyncio.wait_for(rig.engine.revoke(), PATIENCE_S)
    assert not rig.writer.gate.is_set()
    assert (rig.engine.tasks, rig.writer.epochs) == ({}, [])
    assert not any([await each for each in committing])
    state_is_free(rig.engine)
    assert rig.metric("engine_epochs_total", outcome="failed") == 1
    rig.writer.gate.set()
    await rig.engine.assign([SOURCE], NEXT)
    assert await rig.flow.released() == {SOURCE: 0}
    await rig.feed(batch([b"a", b"b"]))
    assert await rig.commit()
    assert (rig.committed(b"a"), rig.committed(b"b")) == (1, 1)
    await rig.engine.close()


async def test_an_epoch_that_was_given_up_and_landed_all_the_same_is_not_done_again(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, changes=SOON)
    rig.writer.minds_giving_up = False
    await rig.start()
    await rig.feed(batch([b"a"]))
    rig.writer.gate.clear()
    await asyncio.wait_for(rig.engine.revoke(), PATIENCE_S)
    assigning = asyncio.create_task(rig.engine.assign([SOURCE], NEXT))
    await asyncio.wait_for(assigning, PATIENCE_S)
    assert rig.flow.waiting == 0, "it started before the fate of the epoch was known"
    rig.writer.gate.set()
    assert await rig.flow.released() == {SOURCE: 1}
    assert len(rig.writer.epochs) == 1
    await rig.engine.close()


async def test_nothing_is_begun_once_the_time_for_the_hand_over_is_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, changes=NEVER)
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.engine.commits.drain(asyncio.get_running_loop().time() + 3_600)
    assert len(rig.writer.epochs) == 1
    await rig.feed(batch([b"b"], 1))
    async with rig.engine.commits._lock:  # an epoch before ends just when the time is up
        draining = asyncio.create_task(rig.engine.commits.drain(0.0))
        while not rig.engine.commits._late:  # noqa: ASYNC110 - a timer sets it, nothing tells
            await asyncio.sleep(0)
    await asyncio.wait_for(draining, PATIENCE_S)
    assert len(rig.writer.epochs) == 1
    assert await rig.flow.released() == {SOURCE: 1}
    await rig.feed(batch([b"b"], 1))
    assert await rig.commit()
    await rig.engine.close()


@pytest.mark.broker
async def test_a_restore_that_hangs_does_not_hold_the_hand_over(
    kafka: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(kafka, namespace, tmp_path)
    engine, flow = an_engine(replace_timeout(world, 1_500), lambda _step: None)
    hangs, entered = threading.Event(), threading.Event()
    found: list[StoreError] = []
    restorer = engine.starter._restorer
    ask = restorer.start_points

    def hang(*asked: Any) -> Any:
        entered.set()
        assert hangs.wait(PATIENCE_S)
        try:
            stores[0].write({}, Positions(source=99))
        except StoreError as exc:
            found.append(exc)
        return ask(*asked)

    monkeypatch.setattr(restorer, "start_points", hang)
    await engine.assign([SOURCE], MEMBERSHIP)
    stores = list(engine.stores().values())
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    await asyncio.wait_for(engine.revoke(), PATIENCE_S)
    assert not hangs.is_set()
    state_is_free(engine)
    monkeypatch.setattr(restorer, "start_points", ask)
    hangs.set()
    await engine.assign([SOURCE], MEMBERSHIP)
    assert await flow.released() == {SOURCE: 0}
    assert found, "a store that was handed over was written"
    await engine.close()


# -- on a real broker -------------------------------------------------------------------------


class Hold:
    """A probe that holds the thread of the commits at a step, once."""

    def __init__(self, at: str) -> None:
        self._at = at
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self, step: str) -> None:
        if step == self._at and not self.released.is_set():
            self.entered.set()
            assert self.released.wait(PATIENCE_S)


def replace_timeout(world: World, session_timeout_ms: int) -> World:
    world.config = replace(world.config, session_timeout_ms=session_timeout_ms)
    return world


def an_engine(world: World, probe: object, name: str = "") -> tuple[Engine, RecordingFlow]:
    """An engine of its own worker on the world's topics."""
    config = replace(
        world.config,
        transactional_id=f"{world.config.transactional_id}{name}",
        data_dir=world.data_dir / name,
    )
    clock = SystemClock()
    writer = TransactionalWriter(config, probe, clock)  # type: ignore[arg-type]
    metrics = EngineMetrics(CollectorRegistry())
    engine = Engine(config, [counting_agent()], writer, clock, metrics, lambda _step: None)
    engine.flow = flow = RecordingFlow()
    return engine, flow


@asynccontextmanager
async def closing(*engines: Engine) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for engine in engines:
            await engine.close()


@pytest.mark.broker
@pytest.mark.parametrize("step", ["begun", "produced", "offsets_sent", "committed"])
async def test_a_hand_over_that_gave_up_loses_and_doubles_nothing(
    kafka: str, namespace: str, tmp_path: Path, step: str
) -> None:
    world = replace_timeout(World(kafka, namespace, tmp_path), 4_000)
    world.fill_source(2)
    hold = Hold(step)
    former, former_flow = an_engine(world, hold, "former")
    heir, heir_flow = an_engine(world, lambda _step: None, "heir")
    async with closing(heir, former), joined(world) as one:
        await former.assign([SOURCE], one.membership())
        await former_flow.released()
        await former.process(Delivery(batch([b"a", b"a"]), former.token, 2))
        old = one.membership()
        revoking = asyncio.create_task(former.revoke())
        assert await asyncio.to_thread(hold.entered.wait, PATIENCE_S)
        await asyncio.wait_for(revoking, PATIENCE_S)
        assert not hold.released.is_set()
        assert former.tasks == {}
        async with joined(world):
            await heir.assign([SOURCE], await one.rejoined(old))
            hold.released.set()
            at = (await heir_flow.released())[SOURCE]
            assert at == (2 if step == "committed" else 0)
            if at == 0:
                await heir.process(Delivery(batch([b"a", b"a"]), heir.token, 2))
                assert await heir.commits.commit()
            assert heir.tasks[SOURCE].table("counts").committed(b"a") == 2
