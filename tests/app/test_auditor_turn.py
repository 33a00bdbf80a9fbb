"""Which worker audits: one of the group, and another one once that is gone."""

from __future__ import annotations

from pathlib import Path

from agents.topics import WINDOW_PARTIALS
from app.engine.epoch import TaskId
from app.serving import is_auditor
from tests.engine.rig import MEMBERSHIP, Rig, counting_agent

PARTITIONS = {WINDOW_PARTIALS: 2}


async def test_the_owner_of_one_partition_audits_and_nobody_knows_between_assignments(
    tmp_path: Path,
) -> None:
    agent = counting_agent(topic=WINDOW_PARTIALS)
    rigs = [Rig(tmp_path / name, [agent], {"partitions": PARTITIONS}) for name in ("a", "b", "c")]
    for rig in rigs:
        assert is_auditor(rig.engine) is None
    owned = [(TaskId(WINDOW_PARTIALS, partition),) for partition in range(2)]
    for rig, tasks in zip(rigs, (*owned, ()), strict=True):
        await rig.engine.assign(tasks, MEMBERSHIP)
    assert [is_auditor(rig.engine) for rig in rigs] == [True, False, False]
    await rigs[0].engine.close()
    await rigs[2].engine.assign(owned[0], MEMBERSHIP)
    assert [is_auditor(rig.engine) for rig in rigs] == [None, False, True]
    for rig in rigs[1:]:
        await rig.engine.close()
