"""Sessions over HTTP: from any worker, one hop, bounded, honest about what is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from agents.topics import SESSION_PARTIALS
from app.engine.driver import Driver
from app.engine.epoch import TaskId
from app.engine.layers import CommittedRows
from app.engine.partitioner import partition_for
from app.engine.query import NotOwnedError, NotReadyError, Owner
from tables.history.datasets import SESSIONS
from tables.history.reader import History
from tables.lanes import LANES_TABLE
from tests.history.rows import archive as archived
from tests.history.rows import session
from tests.sessions.sessions_driver import HOUR, MINUTE, TEN, Rig, at, event, users
from tests.web.fakes import NO_HISTORY, Cluster, MemoryQueries, MemoryReplica, cluster_of
from web.peers import FORWARDED, Peers
from web.problem import problems
from web.queries.archive import Archive
from web.queries.sessions import SessionRoom

PATH = "/api/v1/sessions"
PARTITIONS = 4


class SessionRows(MemoryQueries):
    """One worker's view of tables that the driver keeps."""

    def __init__(self, worker: str, cluster: Cluster, driver: Driver) -> None:
        super().__init__(worker, cluster)
        self._driver = driver

    def _owner(self, topic: str, partition: int) -> Owner:
        assert topic in ("session-partials", "log-events")
        owner = self._cluster.owners[partition]
        return Owner(partition, self._cluster.urls.get(owner or ""), owner == self._worker)

    def table(self, topic: str, partition: int, name: str) -> Any:
        if not self._owner(topic, partition).local:
            raise NotOwnedError(f"{partition} is elsewhere")
        if partition in self._cluster.restoring:
            raise NotReadyError(f"{topic}/{partition} is being restored")
        return CommittedRows(self._driver.tasks[TaskId(topic, partition)].table(name))

    def staleness_ms(self, topic: str, partition: int) -> int:
        self.table(topic, partition, LANES_TABLE)
        return 7

    def replica(self, topic: str, partition: int) -> Any:
        driver = self._driver

        class Rows(MemoryReplica):
            def table(self, name: str) -> Any:
                return CommittedRows(driver.tasks[TaskId(topic, partition)].table(name))

        if partition in self._cluster.standbys.get(self._worker, ()):
            return Rows(self._cluster, partition, "standby", staleness_ms=250)
        self.table(topic, partition, LANES_TABLE)
        return Rows(self._cluster, partition, "active", staleness_ms=7)

    def standbys(self, topic: str, partition: int) -> list[str]:
        assert topic == "session-partials"
        return super().standbys("window-partials", partition)


@dataclass
class Worker:
    """A running web server."""

    client: TestClient[web.Request, web.Application]

    async def json(self, path: str, status: int = 200, **headers: str) -> Any:
        async with self.client.get(path, headers=headers) as response:
            body = await response.json(content_type=None)
            assert response.status == status, body
            return body


@asynccontextmanager
async def serving(
    rig: Rig,
    cluster: Cluster,
    name: str,
    history: Path = NO_HISTORY,
    queries: SessionRows | None = None,
) -> AsyncIterator[Worker]:
    peers = Peers(name)
    app = web.Application(middlewares=[problems])
    queries = queries or SessionRows(name, cluster, rig.driver)
    archive = Archive(History(history, ""))
    SessionRoom(queries, rig.specs, rig.driver.clock.now_ms, archive).install(app, peers)
    server = TestServer(app)
    async with TestClient(server) as client:
        await peers.open()
        cluster.urls[name] = str(server.make_url("")).rstrip("/")
        try:
            yield Worker(client)
        finally:
            await peers.close()


@asynccontextmanager
async def two(rig: Rig, cluster: Cluster) -> AsyncIterator[tuple[Worker, Worker]]:
    async with serving(rig, cluster, "w1") as first, serving(rig, cluster, "w2") as second:
        yield first, second


def rig_of(now_ms: int = TEN, **changes: Any) -> Rig:
    return Rig(specs=(users(**changes), users(name="other")), partitions=PARTITIONS, now_ms=now_ms)


def owned_by(worker: str, cluster: Cluster) -> str:
    names = (f"u{n}" for n in range(1_000))
    return next(n for n in names if cluster.owners[partition_for(n.encode(), 4)] == worker)


async def test_any_worker_answers_for_any_user_as_documented():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    user = owned_by("w1", cluster)
    rig.feed([event(at("08:00"), user, "/view"), event(at("08:10"), user, "/cart")])
    rig.at("10:00", user=user)
    rig.time("10:00")
    async with two(rig, cluster) as (first, second):
        answer = await first.json(f"{PATH}/{user}")
        assert await second.json(f"{PATH}/{user}") == answer
        closed, opened = answer.pop("sessions")
        assert answer == {
            "user": user,
            "type": "users",
            "cursor": None,
            "watermark_ms": at("10:00"),
            "partition": partition_for(user.encode(), PARTITIONS),
            "worker": "w1",
            "staleness_ms": 7,
            "partial": False,
        }
        said = next(s for s in rig.closed() if s["type"] == "users")
        assert closed == {
            "id": said["id"],
            "start": at("08:00"),
            "end": at("08:10"),
            "duration_ms": 10 * MINUTE,
            "count": 2,
            "pages": 2,
            "steps": ["view", "cart"],
            "converted": False,
            "state": "closed",
            "revision": 1,
            "updated_ms": closed["updated_ms"],
            "source": "hot",
        }
        assert (opened["state"], opened["revision"], opened["count"]) == ("open", 0, 1)


async def test_active_sessions_are_the_open_ones_until_their_time_to_live_is_over():
    rig, cluster = rig_of(active_ttl_ms=10 * MINUTE), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    rig.at("08:00", "10:00", user=user)
    rig.time("10:00")
    async with two(rig, cluster) as workers:
        for worker in workers:
            answer = await worker.json(f"{PATH}/active/{user}")
            assert [s["start"] for s in answer["sessions"]] == [at("10:00")]
            await worker.json(f"{PATH}/active/nobody", 404)
        rig.silence(11 * MINUTE, MINUTE)
        assert rig.held(user)[-1] == (0, 0, 1)
        assert rig.open() == 1  # forgotten as active, yet an event may still join it
        for worker in workers:
            await worker.json(f"{PATH}/active/{user}", 404)


class CountedReads(SessionRows):
    """Notes each read of a table of sessions."""

    def __init__(self, worker: str, cluster: Cluster, driver: Driver) -> None:
        super().__init__(worker, cluster, driver)
        self.reads: list[tuple[str, bytes]] = []

    def table(self, topic: str, partition: int, name: str) -> Any:
        rows = super().table(topic, partition, name)
        return CountedRows(rows, self.reads) if name.startswith("sessions_") else rows


@dataclass
class CountedRows:
    """Takes reads of single rows only: whoever goes through a range fails."""

    rows: CommittedRows
    reads: list[tuple[str, bytes]]

    def get(self, key: bytes) -> Any:
        self.reads.append(("get", key))
        return self.rows.get(key)


async def test_a48_8_an_active_session_is_found_by_one_read_of_its_users_row():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    rig.feed([event(TEN, f"u{n}") for n in range(200)])
    assert rig.open() == 200
    queries = CountedReads("w2", cluster, rig.driver)
    async with (
        serving(rig, cluster, "w1") as other,
        serving(rig, cluster, "w2", queries=queries) as owner,
    ):
        answer = await owner.json(f"{PATH}/active/{user}")
        assert [s["start"] for s in answer["sessions"]] == [TEN]
        assert queries.reads == [("get", user.encode())]
        assert await other.json(f"{PATH}/active/{user}") == answer
        assert queries.reads == [("get", user.encode())] * 2


async def test_a48_6_the_active_count_of_all_workers_returns_to_0():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    rig.feed([event(TEN, f"u{n}") for n in range(50)])
    async with two(rig, cluster) as workers:
        for worker in workers:
            assert (await worker.json(f"{PATH}/analytics"))["open"] == 50
        rig.silence(40 * MINUTE)
        for worker in workers:
            answer = await worker.json(f"{PATH}/analytics")
            assert (answer["open"], answer["total"]["sessions"]) == (0, 50)


async def test_a48_2_analytics_follow_a_merge_from_two_sessions_to_one():
    rig, cluster = rig_of(TEN + 2 * HOUR), cluster_of("w1", "w2")
    rig.at("10:00", "10:40")
    rig.time("11:30")
    path = f"{PATH}/analytics?from={at('10:00')}&to={at('12:00')}"
    async with two(rig, cluster) as (first, second):
        before = await first.json(path)
        assert [b["start"] for b in before["buckets"]] == [at("10:00")]
        assert (before["total"]["sessions"], before["total"]["avg_duration_ms"]) == (2, 0)
        rig.at("10:20")
        after = await second.json(path)
        assert after["total"]["sessions"] == 1
        assert after["total"]["events"] == 3
        assert after["total"]["avg_duration_ms"] == 40 * MINUTE
        assert (after["partial"], after["missing"]) == (False, [])


async def test_analytics_count_conversions_by_step():
    rig, cluster = rig_of(TEN + HOUR), cluster_of("w1")
    for user, taken in (("a", 3), ("b", 2), ("c", 1), ("d", 0)):
        for n, step in enumerate(("/view", "/cart", "/purchase")[:taken] or ("/x",)):
            rig.feed([event(at("10:00") + n * MINUTE, user, step)])
    rig.time("11:00")
    async with serving(rig, cluster, "w1") as worker:
        answer = await worker.json(f"{PATH}/analytics?from=-2h&to=now")
        assert answer["steps"] == ["view", "cart", "purchase"]
        assert answer["total"]["reached"] == [3, 2, 1]
        assert answer["total"]["converted"] == 1
        assert answer["total"]["conversion_rate"] == 0.25


async def test_the_type_selects_the_kind_of_session_and_an_unknown_one_is_400():
    rig, cluster = rig_of(TEN + HOUR, gap_ms=HOUR), cluster_of("w1")
    rig.at("10:00", "10:40")
    async with serving(rig, cluster, "w1") as worker:
        assert len((await worker.json(f"{PATH}/u"))["sessions"]) == 1
        assert len((await worker.json(f"{PATH}/u?type=other"))["sessions"]) == 2
        for path in ("u", "active/u", "analytics"):
            answer = await worker.json(f"{PATH}/{path}?type=none", 400)
            assert "expected one of users, other" in answer["detail"]


async def test_sessions_come_in_pages_and_ranges_of_their_starts():
    rig, cluster = rig_of(TEN + 5 * HOUR), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    starts = [at(f"{hour}:00") for hour in range(10, 15)]
    rig.feed([event(start, user) for start in starts])
    async with two(rig, cluster) as (first, _):
        seen, query = [], "limit=2"
        while query:
            page = await first.json(f"{PATH}/{user}?{query}")
            seen += [s["start"] for s in page["sessions"]]
            query = f"limit=2&cursor={page['cursor']}" if page["cursor"] else ""
        assert seen == starts
        within = await first.json(f"{PATH}/{user}?from={starts[1]}&to={starts[3]}")
        assert [s["start"] for s in within["sessions"]] == starts[1:3]
        assert (await first.json(f"{PATH}/{user}?from={starts[4] + 1}"))["sessions"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?from=5&to=5", "from"),
        ("?from=yesterday", "from"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?cursor=%21", "cursor"),
        ("?cursor=YWJj", "cursor"),
    ],
)
async def test_a_bad_parameter_is_400_and_named(query: str, field: str):
    rig, cluster = rig_of(), cluster_of("w1")
    async with serving(rig, cluster, "w1") as worker:
        answer = await worker.json(f"{PATH}/u{query}", 400)
        assert answer["errors"][0]["field"] == field
        assert answer["type"] == "urn:headrace:problem:invalid-request"


@pytest.mark.parametrize("name", ["x" * 201, "a%1Fb", "%00"])
async def test_a_user_that_no_event_can_have_is_400(name: str):
    rig, cluster = rig_of(), cluster_of("w1")
    async with serving(rig, cluster, "w1") as worker:
        for path in (f"{PATH}/{name}", f"{PATH}/active/{name}"):
            assert (await worker.json(path, 400))["errors"][0]["field"] == "userId"


async def test_a_range_of_sums_that_is_too_wide_is_400_and_says_the_limit():
    rig, cluster = rig_of(), cluster_of("w1")
    async with serving(rig, cluster, "w1") as worker:
        answer = await worker.json(f"{PATH}/analytics?from=-33d&to=now", 400)
        assert "ask for at most 31 days" in answer["detail"]
        assert (await worker.json(f"{PATH}/analytics?from=-30d"))["total"]["sessions"] == 0


@pytest.mark.parametrize("user", ["a b/ü?x#y", "a/b", "a%2Fb", "10.0.0.1", "::1"])
async def test_a_user_with_any_characters_is_found_when_encoded(user: str):
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    rig.at("10:00", user=user)
    async with two(rig, cluster) as workers:
        for worker in workers:
            for path in (PATH, f"{PATH}/active"):
                url = (
                    str(worker.client.make_url("/")).rstrip("/") + f"{path}/{quote(user, safe='')}"
                )
                async with worker.client.session.get(URL(url, encoded=True)) as response:
                    assert (await response.json(content_type=None)).get("user") == user


async def test_unknown_users_are_404_and_restoring_ones_503_for_them_alone():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    near, far = owned_by("w1", cluster), owned_by("w2", cluster)
    rig.at("10:00", user=near)
    rig.at("10:00", user=far)
    async with two(rig, cluster) as (first, _):
        await first.json(f"{PATH}/nobody", 404)
        cluster.restoring = {partition_for(near.encode(), PARTITIONS)}
        await first.json(f"{PATH}/{near}", 503)
        await first.json(f"{PATH}/{far}")
        sums = await first.json(f"{PATH}/analytics")
        assert (sums["partial"], sums["missing"]) == (True, ["w1"])
        cluster.restoring = {partition_for(far.encode(), PARTITIONS)}
        await first.json(f"{PATH}/{far}", 503)
        sums = await first.json(f"{PATH}/analytics")
        assert (sums["partial"], sums["missing"]) == (True, ["w2"])


async def test_a_user_without_an_owner_is_503_and_an_owner_that_is_gone_504():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    async with serving(rig, cluster, "w1") as worker:
        await worker.json(f"{PATH}/{user}", 503)  # w2 has no address yet
        cluster.urls["w2"] = "http://127.0.0.1:9"
        answer = await worker.json(f"{PATH}/active/{user}", 504)
        assert answer["type"] == "urn:headrace:problem:owner-unreachable"
        sums = await worker.json(f"{PATH}/analytics")
        assert (sums["partial"], sums["missing"]) == (True, ["http://127.0.0.1:9"])


async def test_a_forwarded_question_is_not_passed_on_again():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    rig.at("10:00", user=user)
    async with two(rig, cluster) as (first, _):
        await first.json(f"{PATH}/{user}", 503, **{FORWARDED: "w3"})
        mine = await first.json(f"{PATH}/analytics", **{FORWARDED: "w3"})
        assert (mine["open"], mine["partial"]) == (0, False)


async def test_a_standby_answers_for_its_user_when_asked_to():
    rig, cluster = rig_of(), cluster_of("w1", "w2", "w3")
    user = owned_by("w1", cluster)
    partition = partition_for(user.encode(), PARTITIONS)
    cluster.standbys["w2"] = {partition}
    rig.at("10:00", user=user)
    async with (
        serving(rig, cluster, "w1") as first,
        serving(rig, cluster, "w2") as second,
        serving(rig, cluster, "w3") as third,
    ):
        here = cluster.urls["w1"]
        for path in (f"{PATH}/{user}", f"{PATH}/active/{user}", f"{PATH}/{user}?from=-30d"):
            stale = f"{path}{'&' if '?' in path else '?'}consistency=stale"
            owner = await first.json(path)
            active, standby = await first.json(stale), await second.json(stale)
            assert active == owner | {"role": "active", "position": 42}
            told = {"worker": "w2", "role": "standby", "position": 42, "staleness_ms": 250}
            assert standby == owner | told
            assert await third.json(stale) == active
            cluster.urls["w1"] = "http://127.0.0.1:9"
            assert await third.json(stale) == standby
            await third.json(path, 504)
            cluster.urls["w1"] = here
        await second.json(f"{PATH}/nobody?consistency=stale", 404)
        answer = await second.json(f"{PATH}/{user}?consistency=any", 400)
        assert answer["errors"][0]["field"] == "consistency"


async def test_sums_carry_the_partitions_they_hold_and_the_least_watermark():
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    rig.at("10:00", user="anna")
    rig.time("10:00")
    async with two(rig, cluster) as workers:
        for name, worker in zip(("w1", "w2"), workers, strict=True):
            answer = await worker.json(f"{PATH}/analytics")
            told = {key: answer[key] for key in ("partitions", "worker", "watermark_ms")}
            assert told == {"partitions": [0, 1, 2, 3], "worker": name, "watermark_ms": at("10:00")}
            assert (answer["staleness_ms"], answer["partial"]) == (7, False)


async def test_a_worker_without_sessions_says_so():
    rig, cluster = rig_of(), cluster_of("w1")
    rig.specs = ()
    async with serving(rig, cluster, "w1") as worker:
        answer = await worker.json(f"{PATH}/u", 404)
        assert "declares no sessions" in answer["detail"]


def test_the_partials_of_users_and_their_rows_are_on_one_partition():
    rig = rig_of()
    rig.at("10:00", user="anna")
    partition = partition_for(b"anna", PARTITIONS)
    task = rig.driver.tasks[TaskId(SESSION_PARTIALS, partition)]
    assert CommittedRows(task.table("sessions_users")).get(b"anna") is not None


async def test_a_range_that_reaches_back_spans_state_and_history(tmp_path: Path):
    rig, cluster = rig_of(), cluster_of("w1", "w2")
    user = owned_by("w2", cluster)
    day = 24 * HOUR
    cold = {"type": "users", "user": user}
    kept = [
        session("old", at("08:00") - 9 * day, at("08:20") - 9 * day, **cold),
        session("swallowed", at("08:05"), at("08:06"), **cold),
        session("other user", at("08:00") - 9 * day, at("08:20"), type="users", user="x"),
    ]
    archived(tmp_path, SESSIONS, kept)
    rig.at("08:00", "08:10", user=user)
    rig.time("10:00")
    async with (
        serving(rig, cluster, "w1", tmp_path) as first,
        serving(rig, cluster, "w2", tmp_path) as second,
    ):
        for worker in (first, second):
            answer = await worker.json(f"{PATH}/{user}?from=-30d")
            found = [(each["start"], each["source"]) for each in answer["sessions"]]
            assert found == [(at("08:00") - 9 * day, "cold"), (at("08:00"), "hot")]
            assert answer["sessions"][0]["id"] == "old"
            recent = await worker.json(f"{PATH}/{user}?from=-1d")
            assert [each["source"] for each in recent["sessions"]] == ["hot"]
        page = await first.json(f"{PATH}/{user}?from=-30d&limit=1")
        assert [each["id"] for each in page["sessions"]] == ["old"]
        rest = await first.json(f"{PATH}/{user}?from=-30d&limit=1&cursor={page['cursor']}")
        assert [each["source"] for each in rest["sessions"]] == ["hot"]
