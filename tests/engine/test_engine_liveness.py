"""Live means that commits move a partition on, or none is due; anything else is said, and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from app.engine.engine import Engine
from app.engine.epoch import TaskId
from app.engine.liveness import Liveness, Sight
from app.engine.membership import Membership
from app.engine.queries import EngineQueries
from app.engine.reading import LogEnd
from app.engine.spec import FailurePolicy
from app.engine.task import TaskState
from app.engine.transaction import CommitFailedError
from app.engine.watch import NAMED_MAX, STALL_S
from app.settings import Settings
from tests.engine.rig import MEMBERSHIP, SOURCE, RecordingFlow, Rig, batch, counting_agent
from tests.engine.test_engine_failures import poison_step
from web.problem import problems
from web.queries.condition import Condition

NEXT = Membership("group", 4, "member-1")
BEHIND = 50_000


@dataclass
class Watched:
    """One partition, looked at once a second."""

    liveness: Liveness = field(default_factory=lambda: Liveness(STALL_S))
    now_s: float = 1_000.0
    answering: bool = True

    def see(
        self, sight: Sight | None, seconds: int = 1, membership: Membership | None = MEMBERSHIP
    ) -> list[str]:
        """What is said after the partition (None: there is none) was seen so for so long."""
        sights: dict[TaskId, Sight] = {}
        for _ in range(seconds):
            self.now_s += 1
            if sight is not None:
                sights[SOURCE] = replace(sight, answer=int(self.now_s) if self.answering else 7)
            self.liveness.observe(sights, membership, self.now_s)
        return self.liveness.stalled(sights, self.now_s)


def running(committed: int, lag: int | None = BEHIND) -> Sight:
    return Sight(committed, 0, lag)


def restoring(passed: int) -> Sight:
    return Sight(None, passed, None, 0, "changelog records")


def test_a_position_that_is_committed_further_each_second_is_live() -> None:
    watched = Watched()
    assert not any(watched.see(running(second)) for second in range(600))


def test_a_partition_with_nothing_to_commit_is_live_for_ever() -> None:
    assert Watched().see(running(1_000, lag=0), 600) == []


def test_nothing_to_commit_is_no_rest_once_the_broker_does_not_say_so_any_more() -> None:
    watched = Watched()
    assert watched.see(running(1_000, lag=0), 600) == []
    watched.answering = False
    assert watched.see(running(1_000, lag=0), 30) == []
    assert watched.see(running(1_000, lag=0)) == [
        "source/0 has committed nothing for 30 s: no fetch was answered since, "
        "look whether the worker reaches the broker"
    ]
    watched.answering = True
    assert watched.see(running(1_000, lag=0)) == []


@pytest.mark.parametrize("lag", [1, BEHIND])
def test_a_partition_that_is_behind_and_commits_nothing_is_not_live_after_the_stall_time(
    lag: int,
) -> None:
    watched = Watched()
    assert watched.see(running(1_000, lag), int(STALL_S)) == []
    assert watched.see(running(1_000, lag)) == [
        f"source/0 has committed nothing for 30 s: {lag} records to read"
    ]


def test_a_partition_whose_end_is_not_known_is_not_live_for_ever() -> None:
    [said] = Watched().see(running(0, lag=None), 31)
    assert "an unknown number of records to read" in said


@given(st.lists(st.integers(0, 1_000), min_size=40, max_size=60))
def test_whatever_lies_below_the_best_position_is_no_movement(positions: list[int]) -> None:
    watched = Watched()
    watched.see(running(1_000))
    for position in positions:
        said = watched.see(running(position))
    assert said


def test_restores_between_failed_commits_are_no_movement() -> None:
    watched = Watched()
    watched.see(running(1_000))
    for _ in range(10):
        watched.see(restoring(0), 2)
        watched.see(restoring(70))
        said = watched.see(running(1_000))
    assert len(said) == 1


def test_a_restore_is_live_while_it_comes_further_and_not_when_it_does_not() -> None:
    watched = Watched()
    assert not any(watched.see(restoring(second)) for second in range(600))
    [said] = watched.see(restoring(599), 30)
    assert said == "source/0 has committed nothing for 30 s: waiting for changelog records"


def test_a_second_restore_is_movement_again_once_something_was_committed() -> None:
    watched = Watched()
    watched.see(restoring(1_000))
    watched.see(running(5))
    watched.see(running(6))
    assert not any(watched.see(restoring(second)) for second in range(600))


def test_the_first_position_after_a_restore_is_movement() -> None:
    watched = Watched()
    watched.see(restoring(0), 20)
    assert watched.see(running(0), 20) == []


def test_only_a_new_assignment_may_begin_at_an_older_position() -> None:
    watched = Watched()
    watched.see(running(1_000))
    assert watched.see(running(10), 25) == []
    assert watched.see(running(10), 25, NEXT) == []
    assert watched.see(running(10), 10, NEXT) != []


def test_assignments_without_a_commit_between_them_are_no_movement() -> None:
    watched = Watched()
    for generation in range(12):
        watched.see(None, 5, None)
        said = watched.see(running(1_000), 5, Membership("group", generation, "member-1"))
    assert [each.partition(":")[0] for each in said] == ["source/0 has committed nothing for 59 s"]


def test_time_outside_the_group_is_not_held_against_a_partition() -> None:
    watched = Watched()
    watched.see(running(1_000, lag=0))
    watched.see(None, 25, None)
    assert watched.see(restoring(0), 20, NEXT) == []


def test_a_partition_that_went_elsewhere_begins_anew() -> None:
    watched = Watched()
    watched.see(running(1_000), 25)
    watched.see(None, 1, NEXT)
    assert watched.see(running(1_000), 25) == []


def test_a_worker_in_no_group_is_not_live_after_the_stall_time() -> None:
    watched = Watched()
    assert watched.see(None, int(STALL_S), None) == []
    [said] = watched.see(None, 1, None)
    assert said.startswith("this worker has been in no consumer group for 30 s: look whether")
    assert watched.see(None, 1, MEMBERSHIP) == []


def test_a_member_without_partitions_is_live() -> None:
    assert Watched().see(None, 600) == []


# -- an engine, and what HTTP says of it -----------------------------------------------------


class Known(RecordingFlow):
    """A consumer that knows the end of the log and has fetched up to there."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = count()
        self.reachable = True
        self.last = LogEnd(0, 0)

    def appended(self, task: TaskId) -> LogEnd | None:
        if self.reachable:
            self.last = LogEnd(self.ends.get(task, 0), next(self.answers))
        return self.last

    def fetched(self, task: TaskId) -> int | None:
        return self.ends.get(task)

    def delivered(self, task: TaskId) -> int:
        return self.ends.get(task, 0)


class NoCluster:
    def owner_url(self, topic: str, partition: int) -> str | None:
        raise AssertionError((topic, partition))

    def standby_urls(self, topic: str, partition: int) -> list[str]:
        raise AssertionError((topic, partition))


async def health(engine: Engine) -> tuple[int, str]:
    """Status and detail of ``/api/v1/health`` of a worker with that engine."""
    queries = EngineQueries(engine, NoCluster(), engine.clock)
    condition = Condition(Settings(), queries, CollectorRegistry(), ())
    app = web.Application(middlewares=[problems])
    app.router.add_get("/", condition.health)
    async with TestClient(TestServer(app)) as client, client.get("/") as answer:
        return answer.status, (await answer.json(content_type=None)).get("detail", "")


def look(rig: Rig, seconds: float = 1.0) -> None:
    rig.clock.advance(seconds)
    engine = rig.engine
    engine.watch.look(engine.tasks, engine.flow, rig.starter.progress, engine.membership)


@pytest.mark.slow
async def test_a_worker_whose_every_commit_aborts_answers_503_with_the_reason(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.flow = rig.engine.flow = flow = Known()
    flow.ends[SOURCE] = 30
    await rig.start()
    await rig.feed(batch([b"a"] * 10))
    assert await rig.commit()
    look(rig)
    for _ in range(4):
        rig.writer.failures.append(
            CommitFailedError("out of order", membership_lost=False, producer_dead=False)
        )
        await rig.feed(batch([b"a"] * 20, 10))
        look(rig)
        assert rig.engine.tasks[SOURCE].position == 30
        assert (await health(rig.engine))[0] == 200
        assert not await rig.commit()
        look(rig)
        await flow.released()
        look(rig, 7)
    status, detail = await health(rig.engine)
    assert (status, detail) == (
        503,
        "source/0 has committed nothing for 36 s: 20 records to read; "
        "the last commit failed: out of order",
    )
    await rig.feed(batch([b"a"] * 20, 10))
    assert await rig.commit()
    look(rig)
    assert await health(rig.engine) == (200, "")
    await rig.engine.close()


async def test_what_was_read_up_to_the_end_and_never_committed_is_no_rest(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.flow = rig.engine.flow = flow = Known()
    flow.ends[SOURCE] = 20
    await rig.start()
    await rig.feed(batch([b"a"] * 20))
    look(rig)
    look(rig, STALL_S)
    assert rig.engine.watch.lag(SOURCE) == 0
    status, detail = await health(rig.engine)
    assert status == 503
    assert "0 records to read, 20 read and not committed" in detail
    await rig.engine.close()


async def test_a_worker_whose_broker_answers_no_fetch_is_not_live_though_it_knows_of_no_lag(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.flow = rig.engine.flow = flow = Known()
    flow.ends[SOURCE] = 0
    await rig.start()
    for _ in range(40):
        look(rig)
    assert await health(rig.engine) == (200, "")
    flow.reachable = False
    for _ in range(int(STALL_S) + 1):
        look(rig)
    assert rig.engine.watch.lag(SOURCE) == 0
    status, detail = await health(rig.engine)
    assert status == 503
    assert "no fetch was answered" in detail
    await rig.engine.close()


async def test_of_many_partitions_that_stand_still_some_are_named_and_the_others_counted(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, changes={"partitions": {"source": 12}})
    await rig.start(*(TaskId("source", partition) for partition in range(12)))
    look(rig)
    look(rig, STALL_S)
    status, detail = await health(rig.engine)
    assert status == 503
    assert detail.count("has committed nothing for 30 s") == NAMED_MAX
    assert detail.endswith("; and 7 more")
    await rig.engine.close()


async def test_a_worker_that_never_comes_back_into_the_group_answers_503(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    look(rig)
    await rig.engine.revoke()
    look(rig)
    assert (await health(rig.engine))[0] == 200
    look(rig, STALL_S)
    status, detail = await health(rig.engine)
    assert status == 503
    assert detail.startswith("this worker has been in no consumer group for 30 s")
    await rig.engine.assign((), MEMBERSHIP)
    look(rig)
    assert await health(rig.engine) == (200, "")
    await rig.engine.close()


async def test_a_halted_partition_is_not_live_and_says_what_halted_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [counting_agent(step=poison_step, on_failure=FailurePolicy.STOP)])
    await rig.start()
    await rig.feed(batch([b"poison"]))
    assert rig.engine.tasks[SOURCE].state is TaskState.HALTED
    look(rig)
    look(rig, STALL_S)
    status, detail = await health(rig.engine)
    assert status == 503
    assert "indigestible" in detail
    await rig.engine.close()
