"""What a worker shows of its partitions: where they stand, and nothing of those that left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from app.engine.batch import RecordBatch
from app.engine.effects import Effects, View
from app.engine.epoch import TaskId
from app.engine.lanes import LIVE
from app.engine.query import ConsumerRow
from app.engine.spec import FailurePolicy
from app.engine.watch import consumer_row
from tests.engine.rig import SOURCE, RecordingFlow, Rig, batch, count_step, counting_agent

OTHER = TaskId("source", 1)
OF_PARTITION = (
    "consumer_lag",
    "consumer_position",
    "consumer_committed",
    "consumer_paused",
    "consumer_watermark_ms",
    "state_store_bytes",
)


@dataclass
class StandingFlow(RecordingFlow):
    """A consumer that has come so far."""

    ends: dict[TaskId, int] = field(default_factory=dict)
    handed_over: int = 0
    at_rest: set[TaskId] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def delivered(self, task: TaskId) -> int:  # noqa: ARG002
        return self.handed_over

    def fetched(self, task: TaskId) -> int | None:
        return self.ends.get(task)

    def end(self, task: TaskId) -> int | None:
        return self.ends.get(task)

    def paused(self, task: TaskId) -> bool:
        return task in self.at_rest

    @property
    def held_bytes(self) -> int:
        return 4_711


def timed_step(batch: RecordBatch, view: View, now_ms: int) -> Effects:
    """Counts, and takes the offset for the event time."""
    effects = count_step(batch, view, now_ms)
    effects.lanes = view.lanes.advanced({LIVE: (batch.offsets[-1], now_ms)})
    return effects


def failing_step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
    raise ArithmeticError("poison")


def standing(rig: Rig) -> StandingFlow:
    rig.flow = rig.engine.flow = flow = StandingFlow()
    return flow


def look(rig: Rig) -> None:
    rig.engine.watch.look(rig.engine.tasks, rig.flow, rig.starter.progress, rig.engine.membership)


def shown(rig: Rig, task: TaskId) -> dict[str, float | None]:
    labels = {"topic": task.topic, "partition": str(task.partition)}
    return {name: rig.registry.get_sample_value(name, labels) for name in OF_PARTITION}


async def test_a_row_tells_position_commit_end_lag_and_watermark(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=timed_step)])
    flow = standing(rig)
    await rig.start()
    task = rig.engine.tasks[SOURCE]
    assert consumer_row(task, flow) == ConsumerRow(
        "source", 0, "running", 0, 0, None, None, 500, False, None
    )
    await rig.feed(batch([b"a"] * 3))
    await rig.commit()
    await rig.feed(batch([b"a"] * 2, 3))
    flow.ends[SOURCE], flow.handed_over = 20, 9
    flow.at_rest.add(SOURCE)
    assert consumer_row(task, flow) == ConsumerRow(
        "source", 0, "running", 5, 3, 20, 15, 500, True, 4
    )
    await rig.engine.close()


async def test_metrics_of_a_partition_vanish_with_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=timed_step)])
    flow = standing(rig)
    await rig.start(SOURCE, OTHER)
    flow.ends = {SOURCE: 10, OTHER: 7}
    await rig.feed(batch([b"a"] * 3))
    await rig.feed(batch([b"a"] * 2, partition=1))
    flow.handed_over = 10
    await rig.commit()
    look(rig)
    found = shown(rig, SOURCE)
    assert found.pop("state_store_bytes") is not None
    assert list(found.values()) == [7, 3, 3, 0, 2]
    assert shown(rig, OTHER)["consumer_lag"] == 5
    assert rig.registry.get_sample_value("fetched_bytes_held") == 4_711
    await rig.start(OTHER)
    look(rig)
    assert set(shown(rig, SOURCE).values()) == {None}
    assert shown(rig, OTHER)["consumer_position"] == 2
    await rig.engine.close()


async def test_a_halted_partition_keeps_its_lag_and_a_restoring_one_has_none(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, [counting_agent(step=failing_step, on_failure=FailurePolicy.STOP)])
    flow = standing(rig)
    await rig.start()
    flow.ends[SOURCE], flow.handed_over = 1_000, 400
    look(rig)
    assert shown(rig, SOURCE)["consumer_lag"] == 1_000
    await rig.feed(batch([b"a"] * 4))
    look(rig)
    assert shown(rig, SOURCE)["consumer_lag"] == 1_000
    row = consumer_row(rig.engine.tasks[SOURCE], flow)
    assert (row.state, row.position, row.lag) == ("halted", 0, 1_000)
    rig.engine.tasks[SOURCE].stop()
    look(rig)
    assert shown(rig, SOURCE)["consumer_lag"] is None
    row = consumer_row(rig.engine.tasks[SOURCE], flow)
    assert (row.state, row.position, row.lag) == ("restoring", None, None)
    await rig.engine.close()
