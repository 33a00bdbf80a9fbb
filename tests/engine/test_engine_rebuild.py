"""State that is rebuilt when asked: set aside between two epochs, and restored like any other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.engine.rig import SOURCE, Rig, batch


async def test_a_rebuild_waits_for_the_epoch_in_flight_and_reads_again_what_was_open(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    store = rig.engine.tasks[SOURCE].store
    assert store is not None
    rig.writer.gate.clear()
    await rig.feed(batch([b"a"]))
    committing = asyncio.create_task(rig.commit())
    await rig.writer.in_flight()
    await rig.feed(batch([b"b"], 1))
    rebuilding = asyncio.create_task(rig.engine.rebuild("source"))
    await asyncio.sleep(0)
    assert (rebuilding.done(), store.damaged) == (False, False)
    rig.writer.gate.set()
    assert await committing
    assert await rebuilding == 1
    assert store.damaged, "whoever restores it sets it aside"
    assert await rig.flow.released() == {SOURCE: 1}
    assert (rig.committed(b"a"), rig.working(b"b")) == (1, None)
    await rig.feed(batch([b"b"], 1))
    assert await rig.commit()
    assert rig.committed(b"b") == 1
    await rig.engine.close()


async def test_a_rebuild_of_what_is_not_here_disturbs_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.feed(batch([b"a"]))
    holds = rig.flow.holds
    assert await rig.engine.rebuild("other") == 0
    assert (rig.flow.holds, rig.flow.waiting, rig.working(b"a")) == (holds, 0, 1)
    await rig.engine.close()
