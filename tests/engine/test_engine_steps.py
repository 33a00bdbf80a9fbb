"""Running a step: one poison record costs that record only."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Reject, Step, View
from app.engine.epoch import TaskId
from app.engine.steps import run_step, sliced, trimmed
from app.engine.store import StoreError
from app.engine.task import Task
from tests.engine.rig import batch, counting_agent

_VIEW = Task(TaskId("source", 0), counting_agent(tables=(), changelog=None), None)


class PoisonedError(Exception):
    pass


def touchy(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    """Applies everything, unless a record is poison."""
    if b"poison" in batch.values:
        raise PoisonedError("cannot digest")
    return Effects(applied=len(batch))


def run(step: Step, records: RecordBatch) -> list[tuple[RecordBatch, Effects]]:
    return list(run_step(step, records, _VIEW, 0, 1 << 20))


@given(st.lists(st.sampled_from([b"good", b"poison"]), min_size=1, max_size=40))
def test_poison_costs_only_itself_and_order_is_kept(values: Sequence[bytes]) -> None:
    parts = run(touchy, batch(values, 100))
    offsets = [offset for part, _ in parts for offset in part.offsets]
    rejected = [part.offsets[reject.index] for part, effects in parts for reject in effects.rejects]
    assert offsets == list(range(100, 100 + len(values)))
    assert rejected == [100 + i for i, value in enumerate(values) if value == b"poison"]
    assert sum(effects.applied for _, effects in parts) == values.count(b"good")


def test_a_poison_record_is_rejected_as_processing_with_what_was_raised() -> None:
    [(_, effects)] = run(touchy, batch([b"poison"]))
    assert effects.rejects == [Reject(0, "PoisonedError: cannot digest", "", "PROCESSING")]


def test_a_good_batch_runs_once_and_whole() -> None:
    records = batch([b"a", b"b", b"c"])
    assert run(touchy, records) == [(records, Effects(applied=3))]


def test_a_step_that_loses_count_rejects_the_records_it_lost() -> None:
    def forgetful(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        return Effects(applied=sum(value != b"lost" for value in batch.values))

    parts = run(forgetful, batch([b"a", b"lost", b"b"]))
    reasons = [reject.reason for _, effects in parts for reject in effects.rejects]
    assert reasons == ["StepContractError: 0 of 1 records are accounted for"]
    assert sum(effects.applied for _, effects in parts) == 2


def test_a_store_that_cannot_be_read_is_not_the_records_fault() -> None:
    def broken(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        raise StoreError("disk")

    with pytest.raises(StoreError, match="disk"):
        run(broken, batch([b"a", b"b"]))


def test_the_next_part_sees_what_the_former_changed() -> None:
    seen: list[tuple[int, int]] = []
    applied = 0

    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        effects = touchy(batch, view, now_ms)
        seen.append((batch.offsets[0], applied))
        return effects

    for part, _ in run_step(step, batch([b"a", b"a", b"poison", b"a"]), _VIEW, 0, 1 << 20):
        applied += len(part)
    assert seen == [(0, 0), (3, 3)]


@given(st.integers(1, 30), st.integers(0, 60))
def test_trimming_leaves_exactly_what_is_not_done(count: int, position: int) -> None:
    records = batch([b"%d" % i for i in range(count)], 20)
    rest = trimmed(records, position)
    assert ([] if rest is None else list(rest.offsets)) == [
        offset for offset in range(20, 20 + count) if offset >= position
    ]
    if rest is not None:
        assert list(rest.values) == [b"%d" % (offset - 20) for offset in rest.offsets]


def test_trimming_falls_between_the_holes_of_a_log() -> None:
    records = RecordBatch(
        "source", 0, [3, 7, 12], [1, 2, 3], [None] * 3, [b"a", b"b", b"c"], [()] * 3
    )
    rest = trimmed(records, 5)
    assert rest is not None
    assert list(rest.offsets) == [7, 12]
    assert rest.next_offset == 13


def test_a_slice_keeps_its_columns_together() -> None:
    part = sliced(batch([b"a", b"b", b"c"], 5, partition=4), 1, 3)
    assert (part.partition, list(part.offsets), part.values) == (4, [6, 7], [b"b", b"c"])
    assert list(part.timestamps) == [1_001, 1_002]
