"""Windows over HTTP: from any worker, one hop, bounded, honest about what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import quote

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from app.engine.partitioner import partition_for
from tables.windows.finals import FINALS_TABLE, Written, final_key
from tables.windows.stats import WindowStats
from tests.web.fakes import (
    MINUTE,
    NOW,
    PARTITIONS,
    SPEC,
    Clock,
    Cluster,
    CommittedMeanwhile,
    MemoryTable,
    Worker,
    cluster_of,
    running_worker,
    stats_of,
)
from web.peers import FORWARDED
from web.problem import ProblemError
from web.queries.params import encode_cursor, parse_cursor, parse_range
from web.queries.rows import newest_rows, newest_rows_sliced
from web.queries.times import TimeRange

WINDOWS = "/api/v1/windows/requests_per_endpoint"


@pytest_asyncio.fixture
async def cluster() -> Cluster:
    cluster = cluster_of("w1", "w2")
    cluster.mark(NOW + 10_000)
    return cluster


@pytest_asyncio.fixture
async def two(cluster: Cluster) -> AsyncIterator[tuple[Worker, Worker]]:
    async with running_worker(cluster, "w1") as first, running_worker(cluster, "w2") as second:
        yield first, second


def owned_by(worker: str, cluster: Cluster, prefix: str = "/k") -> str:
    """A key of a partition of that worker."""
    keys = (f"{prefix}{n}" for n in range(1_000))
    return next(k for k in keys if cluster.owners[partition_for(k.encode(), PARTITIONS)] == worker)


async def test_the_answer_has_the_documented_shape(cluster: Cluster, two: tuple[Worker, Worker]):
    key = owned_by("w1", cluster)
    partition = cluster.put(key, NOW - 2 * MINUTE, stats_of([1, 2, 3, 4], errors=1))
    cluster.put(key, NOW - MINUTE, WindowStats(count=2, lanes=("0/",)))
    cluster.put(key, NOW, stats_of([5]))
    answer = await two[0].json(f"{WINDOWS}/{quote(key, safe='')}")
    windows = answer.pop("windows")
    assert answer == {
        "name": "requests_per_endpoint",
        "key": key,
        "size_ms": MINUTE,
        "advance_ms": MINUTE,
        "partition": partition,
        "worker": "w1",
        "staleness_ms": 7,
        "watermark_ms": NOW + 10_000,
        "partial": False,
    }
    assert [each["state"] for each in windows] == ["final", "closed", "open"]
    assert windows[0] == windows[0] | {
        "start": NOW - 2 * MINUTE,
        "end": NOW - MINUTE,
        "count": 4,
        "errors": 1,
        "sum": 10.0,
        "avg": 2.5,
        "min": 1.0,
        "max": 4.0,
        "late": 0,
    }
    assert {"p50", "p95", "p99"} <= windows[0].keys()
    empty = {"sum", "avg", "min", "max", "p50", "p95", "p99"}
    assert all(windows[1][name] is None for name in empty)


async def test_any_worker_answers_for_any_key(cluster: Cluster, two: tuple[Worker, Worker]):
    keys = [f"/k{n}" for n in range(12)]
    for number, key in enumerate(keys, start=1):
        cluster.put(key, NOW, stats_of([1] * number))
    for number, key in enumerate(keys, start=1):
        path = f"{WINDOWS}/{quote(key, safe='')}?from={NOW}"
        first, second = [await worker.json(path) for worker in two]
        assert first == second
        assert first["windows"][0]["count"] == number


@pytest.mark.parametrize(
    "key", ["/images/a.png", "/a b/ü%2F?x#y", "/..", "/a//b", "/p%25", "plain"]
)
@pytest.mark.parametrize("owner", ["w1", "w2"])
async def test_a_key_with_any_characters_is_found_when_encoded(
    cluster: Cluster, two: tuple[Worker, Worker], key: str, owner: str
):
    cluster.owners = dict.fromkeys(range(PARTITIONS), owner)
    cluster.put(key, NOW, stats_of([1]))
    async with two[0].client.session.get(
        raw_url(two[0], f"{WINDOWS}/{quote(key, safe='')}")
    ) as response:
        answer = await response.json(content_type=None)
    assert (response.status, answer.get("key")) == (200, key), answer


@pytest.mark.parametrize("path", ["//images/a.png", "/images/a.png", "/%2Fimages%2Fa.png"])
@pytest.mark.parametrize("owner", ["w1", "w2"])
async def test_a_path_as_a_key_may_be_appended_raw(
    cluster: Cluster, two: tuple[Worker, Worker], path: str, owner: str
):
    cluster.owners = dict.fromkeys(range(PARTITIONS), owner)
    cluster.put("/images/a.png", NOW, stats_of([1]))
    async with two[0].client.session.get(raw_url(two[0], WINDOWS + path)) as response:
        answer = await response.json(content_type=None)
    assert (response.status, answer.get("key")) == (200, "/images/a.png"), answer


def raw_url(worker: Worker, path: str) -> URL:
    """The path exactly as given, without the client's normalising."""
    return URL(str(worker.client.make_url("/")).rstrip("/") + path, encoded=True)


async def test_unknown_windows_and_keys_are_404(two: tuple[Worker, Worker]):
    for worker in two:
        for path in ("/api/v1/windows/nope", "/api/v1/windows/nope/k", f"{WINDOWS}/none"):
            answer = await worker.json(path, 404)
            assert answer["type"] == "urn:headrace:problem:not-found"


async def test_a_known_key_without_windows_in_the_range_has_an_empty_list(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    cluster.put("/k1", NOW, stats_of([1]))
    for worker in two:
        answer = await worker.json(f"{WINDOWS}//k1?from=0&to={MINUTE}")
        assert answer["windows"] == []


async def test_the_range_is_half_open_over_starts(cluster: Cluster, two: tuple[Worker, Worker]):
    for minute in range(4):
        cluster.put("/k1", NOW + minute * MINUTE, stats_of([1]))
    answer = await two[0].json(f"{WINDOWS}//k1?from={NOW + MINUTE}&to={NOW + 3 * MINUTE}")
    assert [w["start"] - NOW for w in answer["windows"]] == [MINUTE, 2 * MINUTE]


async def test_without_a_range_the_newest_1440_windows_come_oldest_first(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    for minute in range(1_500):
        cluster.put("/k1", NOW + minute * MINUTE, stats_of([1]))
    answer = await two[0].json(f"{WINDOWS}//k1")
    starts = [window["start"] for window in answer["windows"]]
    assert starts == [NOW + minute * MINUTE for minute in range(60, 1_500)]


WIDE = f"from={NOW}&to={NOW + 1_440 * MINUTE + 1}"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=x", "from"),
        ("from=-1", "from"),
        ("to=1.5", "to"),
        ("from=5&to=5", "from"),
        ("from=9&to=5", "from"),
        (WIDE, "to"),
        ("from=99999999999999999999999", "from"),
        ("from=²", "from"),
    ],
)
async def test_a_wrong_range_is_refused_by_name(two: tuple[Worker, Worker], query: str, field: str):
    answer = await two[0].json(f"{WINDOWS}/k?{query}", 400)
    assert [each["field"] for each in answer["errors"]] == [field]
    assert "1440" in answer["detail"] or query != WIDE


async def test_an_owner_that_does_not_answer_is_504(cluster: Cluster):
    async with running_worker(cluster, "w1") as worker:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        key = owned_by("w2", cluster)
        answer = await worker.json(f"{WINDOWS}/{quote(key, safe='')}", 504)
        assert "http://127.0.0.1:1" in answer["detail"]


async def test_a_partition_without_an_owner_or_being_restored_is_503(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    key = owned_by("w1", cluster)
    cluster.put(key, NOW, stats_of([1]))
    partition = partition_for(key.encode(), PARTITIONS)
    cluster.restoring.add(partition)
    for worker in two:
        async with worker.client.get(f"{WINDOWS}/{key}") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
    cluster.restoring.clear()
    cluster.owners[partition] = None
    await two[0].json(f"{WINDOWS}/{key}", 503)


async def test_a_forwarded_request_is_never_forwarded_again(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    key = owned_by("w2", cluster, prefix="k")
    cluster.put(key, NOW, stats_of([1]))
    path = f"{WINDOWS}/{key}"
    async with two[0].client.get(path, headers={FORWARDED: "w2"}) as response:
        assert response.status == 503
    async with two[1].client.get(path, headers={FORWARDED: "w1"}) as response:
        assert response.status == 200


async def test_a_worker_named_as_owner_too_early_does_not_ask_itself(cluster: Cluster):
    async with running_worker(cluster, "w1") as worker:
        cluster.urls["w2"] = cluster.urls["w1"]
        key = owned_by("w2", cluster)
        await worker.json(f"{WINDOWS}/{quote(key, safe='')}", 503)
        listed = await worker.json(WINDOWS)
        assert (listed["partial"], listed["missing"]) == (True, [cluster.urls["w1"]])


async def test_pages_hold_every_key_once_in_a_stable_order(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    keys = {f"/{'x' * (n % 5)}{n}" for n in range(57)}
    for key in keys:
        cluster.put(key, NOW - MINUTE, stats_of([1]))
        cluster.put(key, NOW, stats_of([1, 2]))
    for worker in two:
        seen: list[str] = []
        cursor = ""
        while True:
            page = await worker.json(f"{WINDOWS}?limit=10{cursor}")
            assert not page["partial"]
            assert page["missing"] == []
            assert len(page["keys"]) <= 10
            for each in page["keys"]:
                assert each["window"]["start"] == NOW
                assert each["window"]["count"] == 2
                assert each["worker"] == cluster.owners[each["partition"]]
            seen += [each["key"] for each in page["keys"]]
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert len(seen) == len(set(seen)) == 57
        assert set(seen) == keys
        assert seen == sorted(seen, key=lambda k: (len(k.encode()), k.encode()))


async def test_a_page_as_long_as_one_workers_share_still_leads_on(cluster: Cluster):
    cluster.owners = dict.fromkeys(range(PARTITIONS), "w2")
    for n in range(6):
        cluster.put(f"/{n}", NOW, stats_of([1]))
    async with running_worker(cluster, "w1") as worker, running_worker(cluster, "w2"):
        first = await worker.json(f"{WINDOWS}?limit=3")
        second = await worker.json(f"{WINDOWS}?limit=3&cursor={first['cursor']}")
        assert [each["key"] for each in first["keys"] + second["keys"]] == [
            f"/{n}" for n in range(6)
        ]
        assert second["cursor"] is None


async def test_a_missing_worker_makes_a_list_partial_and_is_named(cluster: Cluster):
    async with running_worker(cluster, "w1") as worker:
        cluster.urls["w2"] = "http://127.0.0.1:1"
        mine, theirs = owned_by("w1", cluster), owned_by("w2", cluster)
        cluster.put(mine, NOW, stats_of([1]))
        cluster.put(theirs, NOW, stats_of([1]))
        page = await worker.json(WINDOWS)
        assert [each["key"] for each in page["keys"]] == [mine]
        assert (page["partial"], page["missing"]) == (True, ["http://127.0.0.1:1"])
        async with worker.client.get("/metrics/requests") as response:
            assert await response.json() == {mine: 1}
            assert response.headers["Headrace-Missing"] == "http://127.0.0.1:1"


async def test_a_list_tells_the_state_and_revision_that_the_window_itself_tells(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    start = NOW - 2 * MINUTE
    for key in ("/k1", "/k2", "/k3"):
        partition = cluster.put(key, start, stats_of([1]))
        written = Written(2, 1, SPEC.identity, NOW)
        cluster.table(partition, FINALS_TABLE).rows[final_key(SPEC.name, key, start)] = written
    listed = (await two[0].json(WINDOWS))["keys"]
    assert [each["key"] for each in listed] == ["/k1", "/k2", "/k3"]
    for each in listed:
        (window,) = (await two[0].json(f"{WINDOWS}/{quote(each['key'], safe='')}"))["windows"]
        assert each["window"] == window
        assert (window["state"], window["revision"]) == ("final", 2)


@pytest.mark.parametrize("restoring", ["w1", "w2"])
async def test_a_list_is_partial_while_one_partition_of_a_worker_is_restored(
    cluster: Cluster, two: tuple[Worker, Worker], restoring: str
):
    keys = [f"/k{n}" for n in range(40)]
    places = {key: cluster.put(key, NOW, stats_of([1])) for key in keys}
    hurt = next(p for p, owner in cluster.owners.items() if owner == restoring)
    cluster.restoring = {hurt}
    for worker in two:
        page = await worker.json(f"{WINDOWS}?limit=100")
        assert {each["key"] for each in page["keys"]} == {k for k in keys if places[k] != hurt}
        assert (page["partial"], page["missing"]) == (True, [restoring])


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=%21", "cursor=_w"])
async def test_a_wrong_limit_or_cursor_is_400(two: tuple[Worker, Worker], query: str):
    await two[0].json(f"{WINDOWS}?{query}", 400)


async def test_a44_1_the_last_five_minutes_are_the_sum_of_their_windows(cluster: Cluster):
    clock = Clock(NOW + 30_000)
    wanted = {}
    for number in range(9):
        key = f"/endpoint/{number}"
        for minutes_ago in range(8):
            cluster.put(key, NOW - minutes_ago * MINUTE, stats_of([1] * (number + 1)))
        cluster.put(key, NOW + MINUTE, stats_of([1]))
        wanted[key] = 5 * (number + 1)
    async with (
        running_worker(cluster, "w1", clock=clock) as first,
        running_worker(cluster, "w2", clock=clock) as second,
    ):
        assert await first.json("/metrics/requests") == wanted
        assert await second.json("/metrics/requests") == wanted


async def test_requests_are_503_while_this_worker_restores(
    cluster: Cluster, two: tuple[Worker, Worker]
):
    cluster.restoring = {p for p, owner in cluster.owners.items() if owner == "w1"}
    await two[0].json("/metrics/requests", 503)
    async with two[1].client.get("/metrics/requests") as response:
        assert response.status == 200
        assert response.headers["Headrace-Missing"] == cluster.urls["w1"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_cursor_leads_back_to_its_key(key: str):
    assert parse_cursor({"cursor": encode_cursor(key)}) == key


@given(st.text(), st.text())
def test_any_range_is_read_or_refused(low: str, high: str):
    with suppress(ProblemError):
        wanted = parse_range({"from": low, "to": high}, MINUTE, 1_000_000)
        assert wanted.from_ms is not None
        assert wanted.to_ms is not None
        assert wanted.from_ms < wanted.to_ms


@given(st.sets(st.integers(0, 200)), st.integers(1, 120), st.integers(0, 200), st.integers(0, 200))
def test_reading_in_slices_reads_the_same_rows(starts: set[int], limit: int, low: int, high: int):
    cluster = cluster_of("w1")
    for start in starts:
        cluster.put("/k", start, stats_of([1]))
        cluster.put("/kk", start, stats_of([1]))
        cluster.put("/j", start, stats_of([1]))
    table: MemoryTable = cluster.table(partition_for(b"/k", PARTITIONS), SPEC.name)
    wanted = TimeRange(low, high)
    rows = newest_rows(table, "/k", wanted, limit)
    assert [start for start, _ in rows] == sorted(s for s in starts if low <= s < high)[-limit:]
    assert asyncio.run(newest_rows_sliced(lambda: table, "/k", wanted, limit)) == rows


@pytest.mark.parametrize(
    "path",
    [f"{WINDOWS}/%2Fa", WINDOWS, f"/metrics/latency/digest?endpoint=%2Fa&from={NOW - MINUTE}"],
)
async def test_what_is_committed_while_rows_are_read_makes_no_window_look_closed(path: str) -> None:
    cluster = cluster_of("w1")
    partition = partition_for(b"/a", PARTITIONS)
    cluster.tables[partition, SPEC.name] = CommittedMeanwhile(
        lambda: cluster.mark(NOW + 60 * MINUTE)
    )
    start_ms = NOW - NOW % MINUTE
    cluster.put("/a", start_ms, stats_of([1.0]))
    cluster.mark(start_ms + 1)
    async with running_worker(cluster) as worker:
        answer = await worker.json(path)
        assert answer["watermark_ms"] == start_ms + 1
        for each in answer.get("windows", [row["window"] for row in answer.get("keys", ())]):
            assert each["state"] == "open"
        assert (await worker.json(path))["watermark_ms"] == NOW + 60 * MINUTE
