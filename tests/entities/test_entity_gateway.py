"""Changes of entities over HTTP: 202 once durable, every bad field named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
import pytest_asyncio

from tests.entities.driving import NOW, body
from tests.entities.serving import PATH, Worker, serving, world_of
from web.gateway.producer import IngestUnavailable


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    async with serving(world_of("w1")) as worker:
        yield worker


async def test_an_accepted_change_is_a_record_keyed_by_type_and_id(worker: Worker) -> None:
    change = body("register", 1, attributes={"b": 1, "a": "x"})
    status, answer, _ = await worker.call("POST", f"{PATH}/device/d%2F1%20%C3%BC", change)
    assert (status, answer) == (202, {"eventId": change["event_id"], "version": 1})
    ((topic, key, value),) = worker.sink.sent
    assert (topic, key.decode()) == ("entity-events", "device:d/1 ü")
    assert json.loads(value) == change


async def test_what_is_not_given_is_made_here(worker: Worker) -> None:
    status, answer, _ = await worker.call(
        "POST", f"{PATH}/device/d-1", {"op": "update", "version": 2, "unknown": 1}
    )
    assert status == 202
    ((_, _, value),) = worker.sink.sent
    assert json.loads(value) == {
        "event_id": answer["eventId"],
        "op": "update",
        "version": 2,
        "timestamp": NOW,
        "attributes": {},
    }


@pytest.mark.parametrize("path", ["device", "device/", "device/%20", "device/%00"])
async def test_a43_6_a_missing_key_is_400_and_named(worker: Worker, path: str) -> None:
    status, answer, _ = await worker.call("POST", f"{PATH}/{path}", {"op": "x", "version": 0})
    assert status == 400
    assert [each["field"] for each in answer["errors"]] == ["id", "op", "version"]
    assert worker.sink.sent == []


@pytest.mark.parametrize(
    ("path", "sent", "fields"),
    [
        ("ship/1", {}, ["type"]),
        ("device/1", [], [""]),
        ("device/" + "x" * 201, body("register", 1), ["id"]),
        ("device/1", {"op": "register"}, ["version"]),
        ("device/1", body("deregister", 1, attributes={"a": 1}), ["attributes"]),
        ("device/1", body("update", 1, timestamp=NOW + 400_000), ["timestamp"]),
    ],
)
async def test_every_bad_field_is_listed_and_nothing_is_sent(
    worker: Worker, path: str, sent: Any, fields: list[str]
) -> None:
    status, answer, _ = await worker.call("POST", f"{PATH}/{path}", sent)
    assert (status, [each["field"] for each in answer["errors"]]) == (400, fields)
    assert worker.sink.sent == []


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"op": NaN}', b'{"a":' * 100_000])
async def test_a_body_that_is_no_json_is_400(worker: Worker, raw: bytes) -> None:
    async with worker.client.post(f"{PATH}/device/1", data=raw) as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"


async def test_a_body_over_the_limit_is_413(worker: Worker) -> None:
    async with worker.client.post(
        f"{PATH}/device/1", data=BytesIO(b" " * ((1 << 20) + 1))
    ) as response:
        assert response.status == 413


async def test_over_the_rate_it_is_429_with_retry_after_and_counted() -> None:
    async with serving(world_of("w1"), ingest_rate=1) as worker:
        answers = [
            await worker.call("POST", f"{PATH}/device/1", body("update", version))
            for version in (1, 2, 3)
        ]
        assert [status for status, _, _ in answers][-1] == 429
        assert int(answers[-1][2]["Retry-After"]) >= 1
        assert (worker.registry.get_sample_value("entity_events_throttled_total") or 0) >= 1
        assert len(worker.sink.sent) == sum(status == 202 for status, _, _ in answers)


async def test_while_nothing_is_durable_it_is_503_with_retry_after(worker: Worker) -> None:
    worker.sink.failure = IngestUnavailable("the broker is away")
    status, answer, headers = await worker.call("POST", f"{PATH}/device/1", body("update", 1))
    assert status == 503
    assert headers["Retry-After"] == "2"
    assert "same event id" in answer["detail"]
