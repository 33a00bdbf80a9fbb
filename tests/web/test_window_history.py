"""One question over state and history: nothing missing, nothing twice, each with its source."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.history.columns import Told
from tables.history.datasets import WINDOWS
from tables.windows.answer import WindowAnswer, window_answer
from tests.history.rows import archive, window
from tests.web.fakes import MINUTE, NOW, SPEC, cluster_of, running_worker, stats_of
from web.queries.archive import (
    ENCODED_AT_ONCE,
    KeyWindows,
    Sources,
    document,
    in_json,
    spanned,
)

KEY = "/cart"
PATH = f"/api/v1/windows/{SPEC.name}/{quote(KEY, safe='')}"
DAY = 24 * 60 * MINUTE


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Three windows: of two days ago, and the two before the newest."""
    starts = (NOW - 2 * DAY, NOW - 3 * MINUTE, NOW - 2 * MINUTE)
    archive(tmp_path, WINDOWS, [window(KEY, start, revision=2) for start in starts])
    return tmp_path


async def test_a_range_that_reaches_back_spans_state_and_history(history: Path) -> None:
    cluster = cluster_of("w1")
    for minutes_ago in (2, 1, 0):
        cluster.put(KEY, NOW - minutes_ago * MINUTE, stats_of([1.0]))
    cluster.mark(NOW)
    async with running_worker(cluster, history=history) as worker:
        answer = await worker.json(f"{PATH}?from=-3d")
        hot = await worker.json(f"{PATH}?from=-10m")
    assert [(each["start"], each["source"]) for each in answer["windows"]] == [
        (NOW - 2 * DAY, "cold"),
        (NOW - 3 * MINUTE, "cold"),
        (NOW - 2 * MINUTE, "hot"),
        (NOW - MINUTE, "hot"),
        (NOW, "hot"),
    ]
    assert answer["sources"] == {"hot": 3, "cold": 2}
    cold = answer["windows"][0]
    assert (cold["state"], cold["revision"], cold["count"], cold["p99"]) == ("final", 2, 20, 3.0)
    assert hot["windows"] == [
        {name: value for name, value in each.items() if name != "source"}
        for each in answer["windows"][2:]
    ]


@pytest.mark.parametrize("state", ["open", "closed", "final"])
async def test_a_state_that_is_asked_for_selects_from_state_and_history_as_one(
    history: Path, state: str
) -> None:
    # The history has a copy of what state holds as closed: it was final before it was revised.
    cluster = cluster_of("w1")
    for minutes_ago in (2, 1, 0):
        cluster.put(KEY, NOW - minutes_ago * MINUTE, stats_of([1.0]))
    cluster.mark(NOW - MINUTE)
    async with running_worker(cluster, history=history) as worker:
        every = await worker.json(f"{PATH}?from=-3d")
        some = await worker.json(f"{PATH}?from=-3d&state={state}")
        await worker.json(f"/api/v1/windows/{SPEC.name}/nobody?from=-3d&state={state}", 404)
    assert {each["state"] for each in every["windows"]} == {"open", "closed", "final"}
    assert some["windows"] == [each for each in every["windows"] if each["state"] == state]
    places = [each["source"] for each in some["windows"]]
    assert some["sources"] == {"hot": places.count("hot"), "cold": places.count("cold")}


async def test_a_key_that_state_forgot_is_found_in_the_history_alone(history: Path) -> None:
    async with running_worker(cluster_of("w1"), history=history) as worker:
        answer = await worker.json(f"{PATH}?from=-3d&to=-1d")
        assert answer["sources"] == {"hot": 0, "cold": 1}
        await worker.json(PATH, 404)
        await worker.json(f"{PATH}?from=-3d&to=-2d", 404)  # half-open
        await worker.json(f"/api/v1/windows/{SPEC.name}/nobody?from=-3d", 404)


async def test_another_worker_is_asked_for_the_whole_span(history: Path) -> None:
    cluster = cluster_of("w1", "w2")
    async with (
        running_worker(cluster, "w1", history=history) as one,
        running_worker(cluster, "w2", history=history) as two,
    ):
        answers = [await worker.json(f"{PATH}?from=-3d") for worker in (one, two)]
    assert answers[0] == answers[1]
    assert answers[0]["sources"]["cold"] == 3


async def test_a_range_of_just_the_retention_is_of_state_alone_however_long_it_takes(
    history: Path,
) -> None:
    cluster = cluster_of("w1")
    cluster.put(KEY, NOW, stats_of([1.0]))
    later = iter(range(NOW, NOW + 1_000))
    async with running_worker(cluster, clock=lambda: next(later), history=history) as worker:
        answer = await worker.json(f"{PATH}?from=-24h")
    assert "sources" not in answer
    assert [each["start"] for each in answer["windows"]] == [NOW]


async def test_a_span_of_more_than_a_month_of_minutes_is_a_400_with_the_limit(
    history: Path,
) -> None:
    async with running_worker(cluster_of("w1"), history=history) as worker:
        problem = await worker.json(f"{PATH}?from=-40d", 400)
    assert problem["errors"][0]["field"] == "to"
    assert "44640 windows" in problem["detail"]


starts = st.sets(st.integers(0, 60))


def told_windows(starts: Iterable[int]) -> Told:
    rows = [{"start": start, "count": 9, "source": "cold"} for start in starts]
    encoded = pa.array(map(msgspec.json.encode, rows), pa.binary())
    return Told([*starts], encoded)


def hot_window(start: int) -> WindowAnswer:
    (answer,) = window_answer(SPEC, [(start, stats_of([1.0]))], {})
    return answer


@given(starts, starts)
def test_state_and_history_are_one_list_in_order_in_which_state_wins(
    hot: set[int], cold: set[int]
) -> None:
    told = told_windows(sorted(cold))
    before, both = spanned([hot_window(start) for start in sorted(hot)], told)
    rows = json.loads(b"[" + b",".join(told.joined(before, 7) + in_json(both)) + b"]")
    assert [(row["start"], row["source"]) for row in rows] == [
        (start, "hot" if start in hot else "cold") for start in sorted(hot | cold)
    ]


@pytest.mark.parametrize("count", [0, 1, ENCODED_AT_ONCE, 2 * ENCODED_AT_ONCE + 1])
def test_a_document_encoded_in_parts_is_that_encoded_at_once(count: int) -> None:
    cold = told_windows(range(count))
    hot = [hot_window(count + at) for at in range(count)]
    head = KeyWindows(
        partition=1,
        worker="w1",
        watermark_ms=None,
        staleness_ms=7,
        partial=False,
        name="ü",
        key="/cart",
        size_ms=1,
        advance_ms=1,
        sources=Sources(count, count),
    )
    told = [msgspec.Raw(row) for row in cold.rows.to_pylist()]
    whole = msgspec.to_builtins(head) | {"windows": [*told, *hot]}
    parts = document(head, cold.joined(count, ENCODED_AT_ONCE) + in_json(hot))
    assert b"".join(parts) == msgspec.json.encode(whole)
    assert len(parts) == 2 + 2 * -(-count // ENCODED_AT_ONCE)


async def test_an_answer_sent_in_parts_says_how_long_it_is(history: Path) -> None:
    async with running_worker(cluster_of("w1"), history=history) as worker:
        for send in (worker.client.get, worker.client.head):
            async with send(f"{PATH}?from=-3d") as response:
                body = await response.read()
                assert "Transfer-Encoding" not in response.headers
                length = int(response.headers["Content-Length"])
                assert len(body) == (length if response.method == "GET" else 0)
                assert length > 300
