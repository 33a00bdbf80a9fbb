"""Where partitions and their standbys go, and how everybody learns of it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from hypothesis import given
from hypothesis import strategies as st

from app.engine.epoch import TaskId
from app.engine.faust_app import EngineApp
from app.engine.faust_assignor import Held, StandbyAssignor, place
from tests.engine.rig import Rig, counting_agent

TOPICS = ["other", "source"]
PARTITIONS = 4


def subsets(partitions: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(0, partitions - 1))


@st.composite
def claims(draw: st.DrawFn) -> tuple[int, dict[str, Held], int]:
    """Partitions, what workers say they hold (zombies may claim what others have), replicas."""
    partitions = draw(st.integers(1, 24))
    names = [f"w{i}" for i in range(draw(st.integers(1, 7)))]
    each = st.builds(Held, subsets(partitions), subsets(partitions))
    return partitions, {name: draw(each) for name in names}, draw(st.integers(0, 3))


@given(claims())
def test_every_partition_has_one_owner_and_its_standbys_elsewhere(
    given_claims: tuple[int, dict[str, Held], int],
) -> None:
    partitions, held, replicas = given_claims
    placed = place(partitions, held, replicas)
    owners = Counter(p for each in placed.values() for p in each.actives)
    copies = Counter(p for each in placed.values() for p in each.standbys)
    assert owners == dict.fromkeys(range(partitions), 1)
    wanted = min(replicas, len(held) - 1)
    assert copies == (dict.fromkeys(range(partitions), wanted) if wanted else {})
    assert all(each.actives.isdisjoint(each.standbys) for each in placed.values())
    loads = [len(each.actives) for each in placed.values()]
    assert max(loads) - min(loads) <= 1


@given(claims())
def test_a_placement_is_left_as_it_is(given_claims: tuple[int, dict[str, Held], int]) -> None:
    partitions, held, replicas = given_claims
    placed = place(partitions, held, replicas)
    assert place(partitions, placed, replicas) == placed


@pytest.mark.parametrize("workers", [2, 3, 4, 5])
def test_when_a_worker_dies_every_partition_goes_to_its_standby(workers: int) -> None:
    placed = place(60, {f"w{i}": Held() for i in range(workers)}, 1)
    lost = placed.pop("w1")
    after = place(60, placed, 1)
    for name, each in after.items():
        assert placed[name].actives <= each.actives
        assert each.actives & lost.actives <= placed[name].standbys


def test_a_worker_that_gives_partitions_up_becomes_their_standby() -> None:
    alone = place(PARTITIONS, {"a": Held()}, 1)
    assert alone == {"a": Held(frozenset(range(PARTITIONS)))}
    both = place(PARTITIONS, {**alone, "b": Held()}, 1)
    assert both["a"].standbys == both["b"].actives
    assert both["b"].standbys == both["a"].actives


def test_no_worker_is_left_without_a_partition_because_standbys_are_wanted() -> None:
    placed = place(4, {name: Held() for name in "abc"}, 1)
    assert sorted(len(each.actives) for each in placed.values()) == [1, 1, 2]


class Metadata:
    """Partition counts, as the assignor asks the cluster for them."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        assert topic in TOPICS
        return set(range(PARTITIONS))


def member(tmp_path: Path, port: int) -> StandbyAssignor:
    """The assignor of a worker whose ``source`` has tables and whose ``other`` has none."""
    app = EngineApp(f"group-{port}", broker="kafka://", table_standby_replicas=1)
    app.conf.web_host = "127.0.0.1"
    app.serve_on(port)
    other = counting_agent(topic="other", tables=(), changelog=None)
    app.engine = Rig(tmp_path / str(port), (counting_agent(), other)).engine
    for topic in TOPICS:
        app.add_agent(topic, topic)
    assignor = app.assignor
    assert isinstance(assignor, StandbyAssignor)
    return assignor


def rebalance(members: dict[str, StandbyAssignor]) -> dict[str, list[tuple[str, list[int]]]]:
    """One round of the group's protocol; the first member leads."""
    joined: dict[str, ConsumerProtocolMemberMetadata] = {
        name: assignor.metadata(set(TOPICS)) for name, assignor in members.items()
    }
    leader = next(iter(members.values()))
    told: dict[str, Any] = dict(leader.assign(Metadata(), joined))
    for name, assignor in members.items():
        assignor.on_assignment(told[name])
    return {name: told[name].assignment for name in members}


def test_the_group_is_told_of_actives_and_queries_of_standbys(tmp_path: Path) -> None:
    members = {"a": member(tmp_path, 7001), "b": member(tmp_path, 7002)}
    group = rebalance(members)

    for topic in TOPICS:
        given_out = [p for parts in group.values() for t, ps in parts if t == topic for p in ps]
        assert sorted(given_out) == list(range(PARTITIONS))
    a, b = (assignor.app for assignor in members.values())
    assert {t.topic for t in a.assigned_standbys()} == {"source"}
    for partition in range(PARTITIONS):
        task = TaskId("source", partition)
        owner, heir = (b, a) if task in a.assigned_standbys() else (a, b)
        assert task not in owner.assigned_standbys()
        url = str(heir.conf.canonical_url).rstrip("/")
        assert owner.standby_urls("source", partition) == [url]
        assert heir.standby_urls("source", partition) == []
        assert heir.owner_url("source", partition) == str(owner.conf.canonical_url).rstrip("/")
        assert owner.standby_urls("other", partition) == []


def test_a_worker_alone_has_no_standbys(tmp_path: Path) -> None:
    alone = member(tmp_path, 7003)
    rebalance({"a": alone})
    assert alone.app.assigned_standbys() == set()
    assert len(alone.assigned_actives()) == PARTITIONS * len(TOPICS)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (PartitionAssignor._perform_assignment, ["self", "cluster", "member_metadata"]),
        (PartitionAssignor._get_changelog_distribution, ["self", "assignments"]),
        (
            PartitionAssignor._protocol_assignments,
            ["self", "assignments", "cl_distribution", "tp_distribution", "topic_groups"],
        ),
    ],
)
def test_faust_still_has_what_is_overridden(
    function: Callable[..., Any], parameters: list[str]
) -> None:
    assert list(inspect.signature(function).parameters) == parameters
