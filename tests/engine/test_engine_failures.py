"""What becomes of a batch whose step fails, by the agent's policy; and how batches adapt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import work as work_module
from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Output, View
from app.engine.pacing import SIZE_MAX, SIZE_MIN, SIZE_START, SLOW_S, BatchSize
from app.engine.spec import FailurePolicy
from app.engine.task import TaskState
from tests.engine.rig import SOURCE, Rig, batch, count_step, counting_agent


class Fickle:
    """Fails as often as it is told, then counts like any other."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __call__(self, records: RecordBatch, view: View, now_ms: int) -> Effects:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("not now")
        return count_step(records, view, now_ms)


def poison_step(records: RecordBatch, view: View, now_ms: int) -> Effects:
    if b"poison" in records.values:
        raise RuntimeError("indigestible")
    return count_step(records, view, now_ms)


def huge_step(records: RecordBatch, view: View, now_ms: int) -> Effects:
    effects = count_step(records, view, now_ms)
    if b"huge" in records.values:
        effects.outputs.append(Output("out", None, b"x" * (1 << 20)))
    return effects


async def test_a34_6_a_retried_step_that_recovers_loses_and_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
    agent = counting_agent(step=Fickle(2), on_failure=FailurePolicy.RETRY)
    rig = Rig(tmp_path, [agent])
    await rig.start()
    await rig.feed(batch([b"a", b"b"]))
    assert await rig.commit()
    assert (rig.committed(b"a"), rig.committed(b"b")) == (1, 1)
    assert rig.writer.epochs[0].outputs == []
    await rig.engine.close()


@pytest.mark.parametrize("policy", [FailurePolicy.DEAD_LETTER, FailurePolicy.RETRY])
async def test_a34_6_a_step_that_goes_on_failing_dead_letters_the_poison_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: FailurePolicy
) -> None:
    monkeypatch.setattr(work_module, "RETRY_WAITS_S", (0.0, 0.0))
    rig = Rig(tmp_path, [counting_agent(step=poison_step, on_failure=policy)])
    await rig.start()
    await rig.feed(batch([b"a", b"poison", b"b"]))
    assert await rig.commit()
    [epoch] = rig.writer.epochs
    assert (rig.committed(b"a"), rig.committed(b"b")) == (1, 1)
    assert [o.value for o in epoch.outputs] == [b"poison"]
    assert epoch.tasks[SOURCE].counts.rejected == 1
    await rig.engine.close()


async def test_a34_6_stop_halts_the_partition_and_keeps_what_was_done_before(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, [counting_agent(step=poison_step, on_failure=FailurePolicy.STOP)])
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.feed(batch([b"poison", b"b"], start=1))
    task = rig.engine.tasks[SOURCE]
    assert task.state is TaskState.HALTED
    assert "offsets 1 to 2: RuntimeError: indigestible" in task.halted_by
    await rig.feed(batch([b"c"], start=3))
    assert await rig.commit()
    assert (rig.committed(b"a"), rig.committed(b"c")) == (1, None)
    assert rig.writer.epochs[0].tasks[SOURCE].position == 1
    await rig.engine.close()


async def test_an_output_no_topic_admits_costs_its_record_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=huge_step)])
    await rig.start()
    await rig.feed(batch([b"a", b"huge", b"b"]))
    assert await rig.commit()
    [epoch] = rig.writer.epochs
    assert [o.value for o in epoch.outputs] == [b"huge"]
    assert (rig.committed(b"a"), rig.committed(b"b"), rig.committed(b"huge")) == (1, 1, None)
    await rig.engine.close()


def test_slow_batches_shrink_to_fifty_and_grow_again_when_quick() -> None:
    size = BatchSize()
    for _ in range(10):
        size.observe(size.records, 2 * SLOW_S)
    assert size.records == SIZE_MIN
    for _ in range(100):
        size.observe(size.records, 0.001)
    assert size.records == SIZE_MAX


def test_a_batch_that_was_not_full_says_nothing_about_a_larger_one() -> None:
    size = BatchSize()
    size.observe(size.records - 1, 0.001)
    assert size.records == SIZE_START


@given(st.lists(st.tuples(st.integers(1, 6_000), st.floats(0, 10))))
def test_batch_size_stays_between_its_bounds(seen: list[tuple[int, float]]) -> None:
    size = BatchSize()
    for records, seconds in seen:
        size.observe(records, seconds)
        assert SIZE_MIN <= size.records <= SIZE_MAX
