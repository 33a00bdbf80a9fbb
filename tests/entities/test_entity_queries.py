"""Entities over HTTP: from any worker, one hop, a cache of one second, honest about gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from app.settings import Settings
from tables.entities.history import HISTORY_TABLE
from tables.entities.state import EntityState
from tables.history.datasets import ENTITIES
from tables.history.names import Source
from tests.entities.driving import DEVICE, NOW, body
from tests.entities.serving import (
    PATH,
    Worker,
    World,
    owned_by,
    partition_of,
    serving,
    world_of,
)
from tests.history.rows import archive, entity_event
from web.entities import listing
from web.entities.asked import PAGE_BYTES_MAX
from web.entities.cache import Answer, AnswerCache
from web.entities.listing import Listed, Page, merged
from web.peers import FORWARDED
from web.queries import scatter

LIFE = [body("register", 1), body("update", 2), body("update", 3), body("update", 4)]


@pytest.fixture
def world() -> World:
    return world_of("w1", "w2")


@pytest_asyncio.fixture
async def two(world: World) -> AsyncIterator[tuple[Worker, Worker]]:
    async with serving(world, "w1") as first, serving(world, "w2") as second:
        yield first, second


def device(entity_id: str) -> str:
    return f"{PATH}/device/{entity_id}"


async def everything(worker: Worker, path: str, limit: int) -> list[Any]:
    """All entries of a list or a history, page by page."""
    found: list[Any] = []
    cursor = ""
    while True:
        status, answer = await worker.get(f"{path}?limit={limit}{cursor}")
        assert status == 200, answer
        page = answer["entities"] if "entities" in answer else answer["events"]
        assert len(page) <= limit
        found += page
        if answer["cursor"] is None:
            return found
        cursor = f"&cursor={answer['cursor']}"


async def test_a43_1_the_last_state_and_four_changes_from_any_worker(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w1", world.owners)
    partition = world.feed(entity_id, *LIFE)
    for worker in two:
        assert await worker.get(device(entity_id)) == (
            200,
            {
                "type": "device",
                "id": entity_id,
                "state": "active",
                "version": 4,
                "updated_at": NOW,
                "attributes": {"firmware": "v4"},
                "partition": partition,
                "worker": "w1",
                "watermark_ms": None,
                "staleness_ms": 7,
                "partial": False,
            },
        )
        status, answer = await worker.get(f"{device(entity_id)}/history")
        assert status == 200
        events = answer.pop("events")
        assert answer == {
            "type": "device",
            "id": entity_id,
            "cursor": None,
            "partition": partition,
            "worker": "w1",
            "watermark_ms": None,
            "staleness_ms": 7,
            "partial": False,
        }
        assert [each["version"] for each in events] == [4, 3, 2, 1]
        assert events[3] == {
            "offset": 0,
            "op": "register",
            "version": 1,
            "timestamp": NOW,
            "event_id": LIFE[0]["event_id"],
            "ingest_ts": NOW,
            "applied": True,
            "attributes": {"firmware": "v1"},
            "source": "hot",
        }


async def test_a43_2_a_deregistered_entity_is_410_and_an_unknown_one_404(
    world: World, two: tuple[Worker, Worker]
) -> None:
    for owner in ("w1", "w2"):
        entity_id = owned_by(owner, world.owners)
        partition = world.feed(entity_id, *LIFE, body("deregister", 5))
        for worker in two:
            status, answer = await worker.get(device(entity_id))
            assert status == 410
            assert answer["version"] == 5
            assert (answer["partition"], answer["worker"]) == (partition, owner)
            _, history = await worker.get(f"{device(entity_id)}/history")
            assert [each["op"] for each in history["events"]][:2] == ["deregister", "update"]
    for path in (device("nobody"), f"{device('nobody')}/history", f"{PATH}/ship/1", f"{PATH}/ship"):
        for worker in two:
            assert (await worker.get(path))[0] == 404


async def test_a43_6_a_cached_answer_is_never_older_than_a_second(
    world: World, two: tuple[Worker, Worker]
) -> None:
    first, _ = two
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1))
    assert (await first.get(device(entity_id)))[1]["version"] == 1
    world.clock.advance(999)
    world.feed(entity_id, body("update", 2))
    _, cached = await first.get(device(entity_id))
    assert (cached["version"], cached["staleness_ms"]) == (1, 7 + 999)
    world.clock.advance(1)
    assert (await first.get(device(entity_id)))[1]["version"] == 2


async def test_a43_6_a_deregistration_is_seen_after_a_second_and_its_410_is_cached_no_longer(
    world: World, two: tuple[Worker, Worker]
) -> None:
    first, second = two
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1))
    await first.get(device(entity_id))
    world.feed(entity_id, body("deregister", 2))
    world.clock.advance(1_000)
    reads = second.queries.reads
    for age_ms in (0, 600):
        world.clock.advance(age_ms)
        status, answer, headers = await first.call("GET", device(entity_id))
        assert (status, answer["staleness_ms"]) == (410, 7 + age_ms)
        assert headers["Content-Type"].startswith("application/problem+json")
    assert second.queries.reads == reads + 1
    world.feed(entity_id, body("register", 3))
    world.clock.advance(400)
    assert (await first.get(device(entity_id)))[1]["version"] == 3


async def test_a_change_accepted_here_is_not_hidden_by_the_cache(
    world: World, two: tuple[Worker, Worker]
) -> None:
    first, second = two
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1))
    await first.get(device(entity_id))
    change = body("update", 2)
    assert (await first.call("POST", device(entity_id), change))[0] == 202
    world.feed(entity_id, change)
    assert (await first.get(device(entity_id)))[1]["version"] == 2
    await second.get(device(entity_id))
    assert (await first.call("POST", device(entity_id), body("update", 1)))[0] == 202
    reads = second.queries.reads
    assert (await first.get(device(entity_id)))[1]["version"] == 2
    assert second.queries.reads == reads


async def test_a_worker_never_caches_what_it_owns_or_does_not_find(
    world: World, two: tuple[Worker, Worker]
) -> None:
    first, _ = two
    mine, theirs = owned_by("w1", world.owners), owned_by("w2", world.owners)
    for entity_id in (mine, theirs):
        assert (await first.get(device(entity_id)))[0] == 404
        world.feed(entity_id, body("register", 1))
        assert (await first.get(device(entity_id)))[1]["version"] == 1
    world.feed(mine, body("update", 2))
    assert (await first.get(device(mine)))[1]["version"] == 2


def test_an_older_version_does_not_replace_a_newer_in_the_cache() -> None:
    now = [0.0]
    cache = AnswerCache(lambda: now[0])
    newer, older = Answer(200, {"v": 2}, 2), Answer(200, {"v": 1}, 1)
    cache.put(b"k", newer, 0.0, 10)
    cache.put(b"k", older, 0.5, 10)
    assert cache.get(b"k") == (newer, 0)
    cache.changed(b"k", 2)
    assert cache.get(b"k") == (newer, 0)
    now[0] = 1.0
    assert cache.get(b"k") is None
    cache.put(b"k", older, 1.0, 10)
    assert cache.get(b"k") == (older, 0)


def test_the_cache_counts_from_when_the_owner_was_asked() -> None:
    now = [5.0]
    cache = AnswerCache(lambda: now[0])
    cache.put(b"k", Answer(200, {}, 1), 4.25, 10)
    assert cache.get(b"k") == (Answer(200, {}, 1), 750)
    cache.put(b"l", Answer(200, {}, 1), 4.0, 10)
    assert cache.get(b"l") is None


def test_the_cache_is_bounded_by_bytes() -> None:
    cache = AnswerCache(lambda: 0.0)
    for number in range(1_000):
        cache.put(b"%d" % number, Answer(200, {}, 1), 0.0, 1 << 16)
    held = [number for number in range(1_000) if cache.get(b"%d" % number) is not None]
    assert 0 < len(held) <= 128
    assert held[-1] == 999


async def test_a_partition_that_is_restored_is_503_and_one_that_moves_too(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    partition = world.feed(entity_id, body("register", 1))
    world.owners.restoring = {partition}
    for worker in two:
        for path in (device(entity_id), f"{device(entity_id)}/history"):
            status, answer, headers = await worker.call("GET", path)
            assert (status, headers["Retry-After"]) == (503, "2")
            assert "being restored" in answer["detail"]
    world.owners.restoring = set()
    world.owners.owners[partition] = None
    status, answer, headers = await two[0].call("GET", device(entity_id))
    assert (status, headers["Retry-After"]) == (503, "2")


async def test_an_owner_that_cannot_be_reached_is_504(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1))
    await two[1].client.close()
    for path in (device(entity_id), f"{device(entity_id)}/history"):
        assert (await two[0].get(path))[0] == 504


async def test_a_forwarded_question_is_answered_here_or_not_at_all(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, body("register", 1))
    for asker in ("w1", "w2"):
        status, _, _ = await two[0].call("GET", device(entity_id), headers={FORWARDED: asker})
        assert status == 503


@pytest.mark.parametrize("entity_id", ["a/b", "ü x", "%2F", "a:b", "history", "..x", "a?b#c"])
@pytest.mark.parametrize("owner", ["w1", "w2"])
async def test_an_id_with_any_characters_is_found_when_encoded(
    world: World, two: tuple[Worker, Worker], entity_id: str, owner: str
) -> None:
    world.owners.owners = dict.fromkeys(range(4), owner)
    world.feed(entity_id, body("register", 1))
    for path in (device(quote(entity_id, safe="")), device(quote(entity_id, safe="")) + "/history"):
        url = URL(str(two[0].client.make_url("")).rstrip("/") + path, encoded=True)
        async with two[0].client.session.get(url) as response:
            answer = await response.json(content_type=None)
        assert (response.status, answer["id"]) == (200, entity_id)


async def test_history_pages_hold_every_change_once_newest_first(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, *(body("update", version) for version in range(1, 6)))
    for limit in (1, 2, 5, 1_000):
        found = await everything(two[0], f"{device(entity_id)}/history", limit)
        assert [each["version"] for each in found] == [5, 4, 3, 2, 1]


async def test_a_history_over_the_bytes_of_an_answer_goes_on_in_the_next_page(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w1", world.owners)
    partition = world.feed(entity_id, *(body("update", version) for version in range(1, 6)))
    rows = world.owners.table(partition, HISTORY_TABLE).rows
    blob = b'{"a":"' + b"x" * (PAGE_BYTES_MAX // 2) + b'"}'
    for key, change in rows.items():
        rows[key] = type(change)(*(getattr(change, n) for n in change.__struct_fields__[:-1]), blob)
    found = await everything(two[0], f"{device(entity_id)}/history", 1_000)
    assert [each["version"] for each in found] == [5, 4, 3, 2, 1]
    _, first = await two[0].get(f"{device(entity_id)}/history?limit=1000")
    assert [each["version"] for each in first["events"]] == [5]


async def test_an_entity_whose_history_is_past_its_retention_has_an_empty_one(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.put(entity_id, EntityState(1, NOW, "e", False, b"{}", NOW, 0))
    status, answer = await two[0].get(f"{device(entity_id)}/history")
    assert (status, answer["events"], answer["cursor"]) == (200, [], None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "cursor=!", "cursor=YWJj", "cursor=LTE"]
)
async def test_a_bad_parameter_of_a_history_is_400(two: tuple[Worker, Worker], query: str) -> None:
    status, answer = await two[0].get(f"{device('d-1')}/history?{query}")
    assert status == 400
    assert answer["errors"][0]["field"] == query.split("=", maxsplit=1)[0]


async def test_lists_hold_every_live_entity_once_in_order_from_any_worker(
    world: World, two: tuple[Worker, Worker]
) -> None:
    for number in range(40):
        world.feed(f"d-{number:02}", body("register", 1))
        if number % 4 == 0:
            world.feed(f"d-{number:02}", body("deregister", 2))
    live = [f"d-{number:02}" for number in range(40) if number % 4]
    for worker in two:
        for limit in (1, 7, 30, 1_000):
            found = await everything(worker, f"{PATH}/device", limit)
            assert [each["id"] for each in found] == live
    assert {each["worker"] for each in found} == {"w1", "w2"}
    assert all(each["partition"] == partition_of(each["id"]) for each in found)


async def test_a_list_says_who_is_missing_and_how_old_it_is(
    world: World, two: tuple[Worker, Worker]
) -> None:
    mine, theirs = owned_by("w1", world.owners), owned_by("w2", world.owners)
    for entity_id in (mine, theirs):
        world.feed(entity_id, body("register", 1))
    _, whole = await two[0].get(f"{PATH}/device")
    assert (whole["partial"], whole["missing"], whole["staleness_ms"]) == (False, [], 7)
    assert (whole["worker"], len(whole["entities"])) == ("w1", 2)
    assert (whole["partitions"], whole["watermark_ms"]) == ([0, 1, 2, 3], None)
    gone = world.owners.urls["w2"]
    await two[1].client.close()
    _, part = await two[0].get(f"{PATH}/device")
    assert (part["partial"], part["missing"]) == (True, [gone])
    assert [each["id"] for each in part["entities"]] == [mine]
    world.owners.owners = {**world.owners.owners, partition_of(theirs): None}
    _, moving = await two[0].get(f"{PATH}/device")
    assert scatter.MOVING in moving["missing"]


async def test_a_standby_answers_for_its_entity_when_asked_to(world: World) -> None:
    entity_id = owned_by("w1", world.owners)
    world.owners.standbys["w2"] = {world.feed(entity_id, *LIFE)}
    async with (
        serving(world, "w1") as first,
        serving(world, "w2") as second,
        serving(world, "w3") as third,
    ):
        here = world.owners.urls["w1"]
        for path in (device(entity_id), f"{device(entity_id)}/history"):
            stale = f"{path}?consistency=stale"
            (_, owner), (_, active), (_, standby) = [
                await worker.get(asked)
                for worker, asked in ((first, path), (first, stale), (second, stale))
            ]
            assert active == owner | {"role": "active", "position": 42}
            told = {"worker": "w2", "role": "standby", "position": 42, "staleness_ms": 250}
            assert standby == owner | told
            assert await third.get(stale) == (200, active)
            world.owners.urls["w1"] = "http://127.0.0.1:9"
            assert await third.get(stale) == (200, standby)
            world.owners.urls["w1"] = here
        assert (await second.get(f"{device('nobody')}?consistency=stale"))[0] == 404
        assert (await second.get(f"{device(entity_id)}?consistency=any"))[0] == 400
        world.feed(entity_id, body("deregister", 5))
        status, gone = await second.get(f"{device(entity_id)}?consistency=stale")
        assert (status, gone["role"], gone["staleness_ms"]) == (410, "standby", 250)


async def test_a_range_of_a_history_bounds_when_its_events_were(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    times = [NOW - 3_000, NOW - 1_000, NOW - 2_000, NOW]  # the third came late
    changes = [body("update", n, timestamp=at) for n, at in enumerate(times, start=1)]
    world.feed(entity_id, *changes)
    for worker in two:
        for query, versions in (
            (f"from={NOW - 2_000}&to={NOW}", [3, 2]),
            (f"to={NOW - 1_000}", [3, 1]),
            (f"from={NOW}", [4]),
            (f"from={NOW + 1}", []),
        ):
            found = []
            cursor = ""
            while True:
                path = f"{device(entity_id)}/history?limit=1&{query}{cursor}"
                status, answer = await worker.get(path)
                assert status == 200
                found += [each["version"] for each in answer["events"]]
                if answer["cursor"] is None:
                    break
                cursor = f"&cursor={answer['cursor']}"
            assert found == versions, query
        status, answer = await worker.get(f"{device(entity_id)}/history?from=2&to=1")
        assert (status, answer["errors"][0]["field"]) == (400, "from")


@pytest.mark.parametrize("restoring", ["w1", "w2"])
async def test_a_list_is_partial_while_one_partition_of_a_worker_is_restored(
    world: World, two: tuple[Worker, Worker], restoring: str
) -> None:
    ids = [f"d-{number:02}" for number in range(40)]
    for entity_id in ids:
        world.feed(entity_id, body("register", 1))
    hurt = next(p for p, owner in world.owners.owners.items() if owner == restoring)
    world.owners.restoring = {hurt}
    for worker in two:
        status, page = await worker.get(f"{PATH}/device")
        found = [each["id"] for each in page["entities"]]
        assert (status, found) == (200, [each for each in ids if partition_of(each) != hurt])
        assert (page["partial"], page["missing"]) == (True, [restoring])


async def test_a_run_of_tombstones_longer_than_a_look_costs_empty_pages_and_hides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "ROWS_READ_MAX", 64)
    for number in range(600):
        gone = number != 599
        world.put(f"d-{number:04}", EntityState(1, NOW, "e", gone, b"{}", NOW, 0))
    async with serving(world, "w1") as first, serving(world, "w2"):
        found = await everything(first, f"{PATH}/device", 10)
        assert [each["id"] for each in found] == ["d-0599"]
        assert (await first.get(f"{PATH}/device"))[1]["entities"] == []


async def test_types_do_not_mix(world: World) -> None:
    specs = {name: replace(DEVICE, type=name) for name in ("device", "device-b")}
    world.put("d-1", EntityState(1, NOW, "e", False, b"{}", NOW, 0))
    async with serving(world, "w1", specs) as first, serving(world, "w2", specs):
        assert [each["id"] for each in await everything(first, f"{PATH}/device", 5)] == ["d-1"]
        assert await everything(first, f"{PATH}/device-b", 5) == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "cursor=!", "cursor=_w"])
async def test_a_bad_parameter_of_a_list_is_400(two: tuple[Worker, Worker], query: str) -> None:
    status, answer = await two[0].get(f"{PATH}/device?{query}")
    assert status == 400
    assert answer["errors"][0]["field"] == query.split("=", maxsplit=1)[0]


def listed(entity_id: str, version: int = 1, size: int = 2) -> Listed:
    return Listed(entity_id, "active", version, NOW, msgspec.Raw(b" " * size), 0, "w")


ids = st.lists(st.text("abc", min_size=1, max_size=3), unique=True).map(sorted)


@given(st.lists(st.tuples(ids, st.integers(1, 4)), min_size=1, max_size=4), st.integers(1, 4))
def test_merged_pages_leave_nothing_out(sources: list[tuple[list[str], int]], limit: int) -> None:
    """Sources that give pages of different lengths; read on until the cursor is null."""
    wanted = sorted({entity_id for held, _ in sources for entity_id in held})
    found: list[str] = []
    after: str | None = None
    while True:
        pages = []
        for held, length in sources:
            rest = [each for each in held if after is None or each > after]
            rows = [listed(each) for each in rest[:length]]
            pages.append(Page(rows, rest[length - 1] if len(rest) > length else None))
        page = merged(pages, limit)
        assert len(page.rows) <= limit
        found += [row.id for row in page.rows]
        if page.through is None:
            break
        assert after is None or page.through > after
        after = page.through
    assert found == wanted


def test_of_two_workers_that_speak_for_an_entity_the_newer_version_counts() -> None:
    pages = [Page([listed("a", 1)], None), Page([listed("a", 2)], None)]
    for order in (pages, pages[::-1]):
        assert [row.version for row in merged(order, 5).rows] == [2]


def test_a_page_ends_at_its_bytes() -> None:
    rows = [listed(name, size=PAGE_BYTES_MAX * 2 // 3) for name in "abc"]
    page = merged([Page(rows, None)], 10)
    assert ([row.id for row in page.rows], page.through) == (["a"], "a")


async def test_many_questions_at_once_are_answered(
    world: World, two: tuple[Worker, Worker]
) -> None:
    entity_id = owned_by("w2", world.owners)
    world.feed(entity_id, *LIFE)
    answers = await asyncio.gather(*(two[0].get(device(entity_id)) for _ in range(50)))
    assert {(status, answer["version"]) for status, answer in answers} == {(200, 4)}


def test_the_admin_token_is_not_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_ADMIN_TOKEN", "very-secret")
    settings = Settings()
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == "very-secret"
    assert "very-secret" not in repr(settings)


async def test_older_events_of_the_archive_follow_on_those_the_table_holds(
    world: World, tmp_path: Path
) -> None:
    forgotten = owned_by("w2", world.owners)
    kept = owned_by("w1", world.owners)
    world.put(forgotten, EntityState(3, NOW, "e", False, b"{}", NOW, 0))
    world.feed(kept, *(body("update", version) for version in (1, 2)))
    records = [entity_event(forgotten, version, NOW - 1_000 + version) for version in (1, 2, 3)]
    archive(tmp_path, ENTITIES, records)
    archive(tmp_path, ENTITIES, [entity_event(kept, 1, NOW)], source=Source("0badcafe", 1))
    async with (
        serving(world, "w1", history=tmp_path) as one,
        serving(world, "w2", history=tmp_path) as other,
    ):
        for worker in (one, other):
            _, answer = await worker.get(f"{device(forgotten)}/history?from=-1h")
            found = [(each["version"], each["source"]) for each in answer["events"]]
            assert found == [(3, "cold"), (2, "cold"), (1, "cold")]
            _, answer = await worker.get(f"{device(kept)}/history?from=-1h")
            found = [(each["version"], each["source"]) for each in answer["events"]]
            assert found == [(2, "hot"), (1, "hot")]
        status, _ = await one.get(f"{device('nobody')}/history?from=-1h")
        assert status == 404
        status, _ = await one.get(f"{device(kept)}/history?from=soon")
        assert status == 400
