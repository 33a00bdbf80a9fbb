"""A store that is kept shut costs its own partition time, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import pytest
from faust.types import TP

from app.engine import opening
from app.engine.delivery import Delivery
from app.engine.epoch import TaskId
from app.engine.faust_pausing import Pausing
from app.engine.inbox import fetch_bounds
from app.engine.queries import Cluster, EngineQueries
from app.engine.store import Positions
from app.engine.stores import Stores
from app.engine.watch import STALL_S
from tests.engine.rig import MEMBERSHIP, SOURCE, Rig, batch, counting_agent, engine_config
from tests.engine.test_engine_store import another_process_with

OTHER = TaskId("source", 1)
A, B = TP("source", 0), TP("source", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of a store that holds something."""
    store = Stores(engine_config(tmp_path)).take(OTHER, counting_agent())
    assert store is not None
    store.write({}, Positions(9, 9))
    store.close()
    return store.path


def watched(rig: Rig) -> None:
    rig.engine.watch.look(rig.engine.tasks, rig.flow, rig.starter.progress, MEMBERSHIP)


async def test_a_store_that_another_process_has_open_is_waited_for_and_no_other_partition_waits(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(opening, "OPEN_AGAIN_S", 0.01)
    rig = Rig(tmp_path)
    queries = EngineQueries(rig.engine, cast(Cluster, None), rig.clock)
    with caplog.at_level(logging.WARNING), another_process_with(folder) as pid:
        await rig.engine.assign([SOURCE, OTHER], MEMBERSHIP)
        assert await rig.flow.released() == {SOURCE: 0}
        await rig.feed(batch([b"a"]))
        await rig.feed(batch([b"a"], partition=1))
        assert await rig.commit()
        assert (rig.committed(b"a"), rig.engine.tasks[OTHER].position) == (1, 0)
        named = f"process {pid} has it open: stop that one"
        assert named in caplog.text
        ready, reason = queries.ready()
        assert (ready, reason.startswith("source/1 waits for its store: ")) == (False, True)
        assert named in reason
        assert [row.state for row in queries.consumers()] == ["running", "restoring"]
        watched(rig)
        rig.clock.advance(STALL_S)
        watched(rig)
        (stalled,) = [each for each in rig.engine.watch.stalled() if str(OTHER) in each]
        assert named in stalled
    assert await rig.flow.released() == {SOURCE: 1, OTHER: 0}
    store = rig.engine.tasks[OTHER].store
    assert store is not None
    assert (store.path, store.positions()) == (folder, Positions(9, 9))
    assert not folder.with_name("1.aside").exists()
    assert queries.ready() == (True, "ready")
    await rig.feed(batch([b"b"], partition=1))
    assert await rig.commit()
    assert rig.committed(b"b", OTHER) == 1
    await rig.engine.close()


async def test_what_waits_for_its_store_is_not_fetched_again_and_again(
    tmp_path: Path, folder: Path
) -> None:
    rig = Rig(tmp_path)
    with another_process_with(folder):
        await rig.engine.assign([SOURCE, OTHER], MEMBERSHIP)
        await rig.flow.released()
        pausing, active = Pausing(rig.engine, fetch_bounds(64 << 20, 2), None), {A, B}
        pausing.inbox.add(OTHER, 1)
        pausing.done(Delivery(batch([b"a"], partition=1), rig.engine.token, 1), active)
        assert await pausing.room(active)
        assert active == {A}
    await rig.engine.close()


async def test_a_partition_that_waits_for_its_store_is_handed_over_and_comes_back(
    tmp_path: Path, folder: Path
) -> None:
    rig = Rig(tmp_path)
    with another_process_with(folder):
        await rig.engine.assign([OTHER], MEMBERSHIP)
        assert await rig.flow.released() == {}
        await rig.engine.revoke()
        assert rig.engine.tasks == {}
    await rig.engine.assign([OTHER], MEMBERSHIP)
    assert await rig.flow.released() == {OTHER: 0}
    await rig.engine.close()


async def test_a_commit_that_fails_leaves_what_waits_for_its_store_waiting(
    tmp_path: Path, folder: Path
) -> None:
    rig = Rig(tmp_path)
    with another_process_with(folder):
        await rig.engine.assign([SOURCE, OTHER], MEMBERSHIP)
        assert await rig.flow.released() == {SOURCE: 0}
        rig.writer.failures.append(RuntimeError("broken"))
        await rig.feed(batch([b"a"]))
        assert not await rig.commit()
        assert await rig.flow.released() == {SOURCE: 0}
    await rig.engine.close()
