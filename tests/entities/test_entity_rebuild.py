"""The rebuild from offset 0: for admins, one at a time, exact about what differs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tables.entities.event import entity_key
from tables.entities.snapshot import digest
from tables.entities.state import EntityState
from tests.entities.driving import NOW, body
from tests.entities.serving import (
    TOKEN,
    TopicCopy,
    Worker,
    World,
    owned_by,
    partition_of,
    serving,
    world_of,
)
from web.entities import rebuild
from web.entities.comparing import DIFFERENCES_MAX, Latest, compare
from web.entities.rebuild import PATH, ROWS_PATH
from web.entities.statetopic import StateTopicError

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
VALUE = b'{"state":"active","version":1,"updated_at":1,"attributes":{}}'


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rebuild, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(rebuild, "RESTORE_LOOK_S", 0.001)
    return world_of("w1", "w2")


@pytest_asyncio.fixture
async def two(world: World) -> AsyncIterator[tuple[Worker, Worker]]:
    async with serving(world, "w1") as first, serving(world, "w2") as second:
        yield first, second


async def rebuilt(worker: Worker) -> Any:
    """The report of a rebuild that has ended."""
    status, report, headers = await worker.call("POST", PATH, headers=ADMIN)
    assert (status, report["state"]) == (202, "running")
    assert headers["Location"] == f"{PATH}/{report['id']}"
    while report["state"] == "running":
        status, report, _ = await worker.call("GET", headers["Location"], headers=ADMIN)
        assert status == 200
    return report


async def test_topic_and_tables_that_agree_have_one_hash_over_all_workers(
    world: World, two: tuple[Worker, Worker]
) -> None:
    for number in range(50):
        world.feed(f"d-{number}", body("register", 1))
    world.feed("d-7", body("deregister", 2))
    report = await rebuilt(two[0])
    assert report["state"] == "equal"
    assert (report["entities"], report["partitions"], report["records"]) == (49, 4, 50)
    assert report["topic_hash"] == report["tables_hash"] != f"{0:032x}"
    assert (report["moved"], report["different"], report["worker"]) == (0, 0, "w1")
    assert two[0].topic.closed == 1
    assert report["started_at"] == report["finished_at"] == NOW
    again = await rebuilt(two[1])
    assert again["tables_hash"] == report["tables_hash"]
    world.feed("d-8", body("update", 2))
    assert (await rebuilt(two[0]))["tables_hash"] != report["tables_hash"]


async def test_the_worker_that_is_asked_rebuilds_its_own_partitions_and_waits_for_them(
    world: World, two: tuple[Worker, Worker]
) -> None:
    for number in range(50):
        world.feed(f"d-{number}", body("register", 1))
    world.restore_s = 0.05
    report = await rebuilt(two[0])
    assert (report["state"], report["rebuilt"], report["partitions"]) == ("equal", 2, 4)
    assert (report["entities"], world.renewed) == (50, ["w1"])
    assert (await rebuilt(two[1]))["state"] == "equal"
    assert world.renewed == ["w1", "w2"]


async def test_a43_2_a_deregistered_entity_is_absent_after_a_rebuild(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1), body("deregister", 2))
    report = await rebuilt(two[0])
    assert (report["state"], report["entities"]) == ("equal", 0)
    assert (await two[0].get(f"/api/v1/entities/device/{entity_id}"))[0] == 410


@pytest.mark.parametrize("owner", ["w1", "w2"])
async def test_what_the_topic_and_the_table_do_not_tell_alike_is_named(
    world: World, two: tuple[Worker, Worker], owner: str
) -> None:
    lost = owned_by(owner, world.owners)
    partition = world.feed(lost, body("register", 1))
    key = entity_key("device", lost)
    # What a table that lost its row looks like: the topic still has it, from before the look.
    told = two[0].topic.read(partition).keys[key][0]
    world.owners.table(partition, "entities").rows.clear()
    two[0].topic.end = lambda _: 1  # type: ignore[method-assign]
    two[0].topic.extra = {partition: {key: VALUE}}
    report = await rebuilt(two[0])
    assert (report["state"], report["different"]) == ("different", 1)
    assert report["topic_hash"] != report["tables_hash"]
    assert told is not None
    assert report["differences"] == [
        {
            "entity": key.decode(),
            "partition": partition,
            "topic": f"{digest(key, VALUE):032x}",
            "table": None,
        }
    ]


async def test_a_table_that_follows_its_transaction_a_moment_later_is_no_difference(
    world: World, two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    entity_id = owned_by("w1", world.owners)
    partition = world.feed(entity_id, body("register", 1))
    rows = dict(world.owners.table(partition, "entities").rows)
    monkeypatch.setattr(two[0].topic, "end", lambda _: 1)
    looks: list[int] = []

    def read(looked: int) -> Latest:
        table = world.owners.table(looked, "entities").rows
        table.update(rows if looked == partition else {})
        looks.append(looked)
        return TopicCopy.read(two[0].topic, looked)

    monkeypatch.setattr(two[0].topic, "read", read)
    world.owners.table(partition, "entities").rows.clear()
    assert (await rebuilt(two[0]))["state"] == "equal"
    assert looks.count(partition) == 2


async def test_without_the_token_it_is_401_with_another_403_and_without_a_setting_403(
    world: World, two: tuple[Worker, Worker]
) -> None:
    for method, path in (("POST", PATH), ("GET", f"{PATH}/x")):
        for given, wanted in (
            (None, 401),
            ("", 401),
            ("Bearer", 401),
            ("Bearer  ", 401),
            (f"Basic {TOKEN}", 401),
            (f"Bearer {TOKEN}x", 403),
            ("Bearer ü", 403),
        ):
            headers = {} if given is None else {"Authorization": given}
            status, answer, sent = await two[0].call(method, path, headers=headers)
            assert status == wanted, given
            assert ("WWW-Authenticate" in sent) == (wanted == 401)
            assert TOKEN not in str(answer)
    for unset in (None, ""):
        async with serving(world, "w3", admin_token=unset) as off:
            for headers in ({}, {"Authorization": "Bearer "}, ADMIN):
                status, answer, _ = await off.call("POST", PATH, headers=headers)
                assert status == 403
                assert "set HEADRACE_ADMIN_TOKEN" in answer["detail"]


async def test_one_runs_at_a_time_and_a_second_is_409(
    two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def end(_partition: int) -> int:
        go.wait(10)
        return 0

    monkeypatch.setattr(two[0].topic, "end", end)
    status, first, _ = await two[0].call("POST", PATH, headers=ADMIN)
    assert status == 202
    status, answer, headers = await two[0].call("POST", PATH, headers=ADMIN)
    assert status == 409
    assert first["id"] in answer["detail"]
    assert int(headers["Retry-After"]) >= 1
    go.set()
    report = first
    while report["state"] == "running":
        _, report, _ = await two[0].call("GET", f"{PATH}/{first['id']}", headers=ADMIN)
    assert (await two[0].call("POST", PATH, headers=ADMIN))[0] == 202


async def test_the_last_reports_are_kept_and_others_are_404(two: tuple[Worker, Worker]) -> None:
    ids = [(await rebuilt(two[0]))["id"] for _ in range(rebuild.REPORTS_MAX + 1)]
    statuses = [(await two[0].call("GET", f"{PATH}/{i}", headers=ADMIN))[0] for i in ids]
    assert statuses == [404] + [200] * rebuild.REPORTS_MAX
    status, answer, _ = await two[1].call("GET", f"{PATH}/{ids[-1]}", headers=ADMIN)
    assert status == 404
    assert "ask the worker" in answer["detail"]


async def test_what_keeps_it_from_a_result_is_the_reason_of_its_failure(
    world: World, two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    two[0].topic.failure = StateTopicError("is Kafka away?")
    report = await rebuilt(two[0])
    assert (report["state"], report["reason"]) == ("failed", "is Kafka away?")
    assert report["topic_hash"] is None
    two[0].topic.failure = ValueError("unforeseen")
    report = await rebuilt(two[0])
    assert (report["state"], report["reason"]) == (
        "failed",
        "it met an error: see the worker's log",
    )
    two[0].topic.failure = None
    monkeypatch.setattr(rebuild, "RESTORE_LOOKS_MAX", 2)
    world.owners.restoring = {0}
    assert "being restored" in (await rebuilt(two[0]))["reason"]
    world.owners.restoring = {1}
    assert "answered 503 for partition 1" in (await rebuilt(two[0]))["reason"]
    world.owners.restoring, world.owners.owners[1] = set(), None
    assert "moving to another worker" in (await rebuilt(two[0]))["reason"]


async def test_a_worker_that_stops_ends_its_rebuild() -> None:
    go = threading.Event()
    async with serving(world_of("w1"), "w1") as worker:
        worker.topic.end = lambda _: go.wait(10) and 0  # type: ignore[method-assign]
        assert (await worker.call("POST", PATH, headers=ADMIN))[0] == 202
    assert worker.topic.stopped
    go.set()


async def test_the_rows_of_a_partition_come_in_pages_without_the_dead(
    world: World, two: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "ROWS_PAGE", 40)
    monkeypatch.setattr(rebuild, "ROWS_SLICE", 20)
    for number in range(400):
        world.put(f"d-{number}", EntityState(1, NOW, "e", number % 3 == 0, b"{}", NOW, 0))
    found: list[str] = []
    path = f"{ROWS_PATH}/1"
    cursor = ""
    while cursor is not None:
        status, page = await two[1].get(path + (f"?cursor={cursor}" if cursor else ""))
        assert status == 200
        assert len(page["rows"]) <= 40
        found += page["rows"]
        cursor = page["cursor"]
    wanted = [f"device:d-{n}" for n in range(400) if n % 3 and partition_of(f"d-{n}") == 1]
    assert sorted(found) == sorted(wanted)
    assert (await two[0].get(path))[0] == 503
    assert (await rebuilt(two[0]))["entities"] == len([n for n in range(400) if n % 3])


def test_what_has_a_record_beyond_the_end_has_moved_and_is_left_out() -> None:
    latest = Latest({b"a": (1, 0), b"b": (2, 5), b"c": (None, 6), b"d": (None, 1)}, 9)
    look = compare(0, latest, {b"a": 1, b"b": 77, b"c": 78}, before=5)
    assert (look.different, look.moved, look.entities, look.records) == (0, 2, 1, 9)
    assert (look.topic, look.table) == (1, 1)


def test_every_kind_of_difference_counts_and_the_first_are_named() -> None:
    latest = Latest({b"a": (1, 0), b"b": (2, 1), b"c": (None, 2)}, 3)
    look = compare(3, latest, {b"b": 3, b"c": 4, b"d": 5}, before=9)
    told = [
        (each.entity, *(None if at is None else int(at, 16) for at in (each.topic, each.table)))
        for each in look.differences
    ]
    assert told == [("a", 1, None), ("b", 2, 3), ("c", None, 4), ("d", None, 5)]
    many = compare(0, Latest(), {b"%d" % n: n for n in range(100)}, before=0)
    assert (many.different, len(many.differences)) == (100, DIFFERENCES_MAX)
