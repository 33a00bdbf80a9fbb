"""What becomes of a batch whose step fails, by the agent's policy; and how batches adapt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import attempts as attempts_module
from app.engine.batch import RecordBatch, header
from app.engine.effects import Effects, Output, Reject, View
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


def strict_step(records: RecordBatch, view: View, now_ms: int) -> Effects:
    """Rejects what is called garbage, raises on poison, counts the rest."""
    if b"poison" in records.values:
        raise RuntimeError("indigestible")
    garbage = [i for i, value in enumerate(records.values) if value == b"garbage"]
    effects = count_step(records, view, now_ms)
    effects.updates["counts"].pop(b"garbage", None)
    effects.applied -= len(garbage)
    effects.rejects = [Reject(i, "is not JSON", "body") for i in reversed(garbage)]
    return effects


def told(output: Output, *names: str) -> list[int]:
    """Headers that are numbers."""
    return [int(header(output.headers, name) or b"-1") for name in names]


ATTEMPTS = ("attempt_count", "first_failure_timestamp", "last_failure_timestamp")


def huge_step(records: RecordBatch, view: View, now_ms: int) -> Effects:
    effects = count_step(records, view, now_ms)
    if b"huge" in records.values:
        effects.outputs.append(Output("out", None, b"x" * (1 << 20)))
    return effects


async def test_a34_6_a_retried_step_that_recovers_loses_and_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "RETRY_WAITS_S", (0.0, 0.0, 0.0))
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
    monkeypatch.setattr(attempts_module, "RETRY_WAITS_S", (0.0, 0.0))
    rig = Rig(tmp_path, [counting_agent(step=poison_step, on_failure=policy)])
    await rig.start()
    await rig.feed(batch([b"a", b"poison", b"b"]))
    assert await rig.commit()
    [epoch] = rig.writer.epochs
    assert (rig.committed(b"a"), rig.committed(b"b")) == (1, 1)
    assert [o.value for o in epoch.outputs] == [b"poison"]
    assert epoch.tasks[SOURCE].counts.rejected == 1
    await rig.engine.close()


async def test_a34_6_a_dead_letter_after_retries_tells_how_often_and_since_when_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "RETRY_WAITS_S", (0.0, 0.0, 0.0))

    def slow_step(records: RecordBatch, view: View, now_ms: int) -> Effects:
        rig.clock.advance(1.0 if len(records) == 3 else 0.0)
        return strict_step(records, view, now_ms)

    rig = Rig(tmp_path, [counting_agent(step=slow_step, on_failure=FailurePolicy.RETRY)])
    await rig.start()
    began_ms = rig.clock.now_ms()
    await rig.feed(batch([b"a", b"garbage", b"poison"]))
    assert await rig.commit()
    garbage, poison = rig.writer.epochs[0].outputs
    assert (garbage.value, poison.value) == (b"garbage", b"poison")
    last_ms = began_ms + 3_000
    assert told(poison, *ATTEMPTS) == [4, began_ms + 1_000, last_ms]
    assert told(garbage, *ATTEMPTS) == [1, last_ms, last_ms]
    await rig.engine.close()


async def test_a34_6_a_rejected_record_is_dead_lettered_at_once_whatever_is_retried(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, [counting_agent(step=strict_step, on_failure=FailurePolicy.RETRY)])
    await rig.start()
    now_ms = rig.clock.now_ms()
    await rig.feed(batch([b"a", b"garbage"]))
    assert await rig.commit()
    [garbage] = rig.writer.epochs[0].outputs
    assert told(garbage, *ATTEMPTS) == [1, now_ms, now_ms]
    assert rig.committed(b"a") == 1
    await rig.engine.close()


async def test_a34_6_stop_halts_on_a_rejected_record_before_its_batch(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=strict_step, on_failure=FailurePolicy.STOP)])
    await rig.start()
    await rig.feed(batch([b"a"]))
    await rig.feed(batch([b"b", b"garbage", b"c", b"garbage"], start=1))
    task = rig.engine.tasks[SOURCE]
    assert task.state is TaskState.HALTED
    assert task.halted_by == (
        "the step of source/0 rejected offset 2: body: is not JSON; "
        "mend the cause, then start the worker again"
    )
    assert await rig.commit()
    [epoch] = rig.writer.epochs
    assert (epoch.tasks[SOURCE].position, epoch.outputs) == (1, [])
    assert (rig.committed(b"a"), rig.committed(b"b")) == (1, None)
    assert epoch.tasks[SOURCE].counts.rejected == 0
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
