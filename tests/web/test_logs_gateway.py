"""POST /api/v1/logs against a real web server; what is published is recorded."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.web.fakes import NOW, Worker, running_worker
from web.gateway.producer import IngestUnavailable

URL = "/api/v1/logs"
EVENT = {"source": "shop", "level": "INFO", "message": "paid"}


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running_worker() as running:
        yield running


async def post(worker: Worker, body: bytes | object, status: int, **headers: str) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with worker.client.post(URL, data=BytesIO(raw), headers=headers) as response:
        answer = json.loads(await response.read())
        assert response.status == status, answer
        if status >= 400:
            assert response.content_type == "application/problem+json"
            assert answer["status"] == status
            assert {"type", "title", "detail"} <= answer.keys()
            assert (status in (429, 503)) == ("Retry-After" in response.headers)
        return answer


async def test_a39_1_the_documented_body_is_answered_with_its_id(worker: Worker):
    answer = await post(worker, EVENT, 202)
    assert list(answer) == ["eventId"]
    ((topic, event),) = worker.sink.sent
    assert topic == "application-logs"
    assert event.event_id == answer["eventId"] == str(UUID(answer["eventId"]))
    assert (event.source, event.service, event.level) == ("shop", "shop", "INFO")
    assert event.timestamp == event.ingest_ts == NOW


async def test_the_alias_path_is_the_same_endpoint(worker: Worker):
    async with worker.client.post(f"{URL}/ingest", json=EVENT) as response:
        assert response.status == 202
    assert len(worker.sink.sent) == 1


async def test_a39_8_missing_source_is_named(worker: Worker):
    answer = await post(worker, {"level": "INFO", "message": "x"}, 400)
    assert [(e["index"], e["field"]) for e in answer["errors"]] == [(0, "source")]
    assert worker.sink.sent == []


async def test_a39_8_a_body_of_two_mib_is_too_large(worker: Worker):
    await post(worker, b'{"source": "' + b"x" * (2 << 20) + b'"}', 413)
    assert worker.sink.sent == []


@pytest.mark.parametrize("amount", [b'"-1.00"', b"-1.5", b"NaN", b'"NaN"', b"1e999"])
async def test_a39_8_negative_and_nan_amounts_are_refused(worker: Worker, amount: bytes):
    answer = await post(worker, b'{"source": "shop", "amount": ' + amount + b"}", 400)
    assert answer["errors"][0]["index"] == 0
    assert worker.sink.sent == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"source": "a"',
        b'{"source": "\xff"}',
        b'{"source": NaN}',
        b'{"a":' * 50_000,
        b'[{"source": "a"}, {"source": }]',
        b'{"source": "a"}\n{"source": \n',
        b"\x00\x01\x02",
        b"[]",
        b"17",
        b'"text"',
        b"null",
        b'{"source": "\\ud800"}',
    ],
)
async def test_a35_8_malformed_json_publishes_nothing(worker: Worker, raw: bytes):
    answer = await post(worker, raw, 400)
    assert {"index", "field", "reason"} <= answer["errors"][0].keys()
    assert worker.sink.sent == []


async def test_a35_8_unknown_fields_are_accepted(worker: Worker):
    await post(worker, EVENT | {"colour": "blue", "nested": {"deep": [1, {"a": None}]}}, 202)
    assert len(worker.sink.sent) == 1


async def test_a_batch_is_answered_item_by_item(worker: Worker):
    answer = await post(worker, [EVENT, {"level": "INFO"}, EVENT, 5], 202)
    assert (answer["accepted"], answer["rejected"]) == (2, 2)
    assert [each["status"] for each in answer["results"]] == [202, 400, 202, 400]
    assert answer["results"][1]["errors"][0]["field"] == "source"
    sent = [event.event_id for _, event in worker.sink.sent]
    assert sent == [answer["results"][0]["eventId"], answer["results"][2]["eventId"]]


async def test_a_batch_without_a_valid_event_is_refused_item_by_item(worker: Worker):
    answer = await post(worker, [{"level": "INFO"}, EVENT | {"status": "abc"}], 400)
    assert (answer["accepted"], answer["rejected"]) == (0, 2)
    assert [(e["index"], e["field"]) for e in answer["errors"]] == [(0, "source"), (1, "status")]
    assert worker.sink.sent == []


async def test_lines_are_a_batch(worker: Worker):
    lines = b"".join(json.dumps(EVENT).encode() + b"\n" for _ in range(3))
    for headers in ({}, {"Content-Type": "application/x-ndjson"}):
        answer = await post(worker, lines, 202, **headers)
        assert answer["accepted"] == 3


async def test_a_thousand_events_pass_and_one_more_does_not(worker: Worker):
    assert (await post(worker, [EVENT] * 1_000, 202))["accepted"] == 1_000
    await post(worker, [EVENT] * 1_001, 413)
    assert len(worker.sink.sent) == 1_000


async def test_gzip_is_read(worker: Worker):
    body = gzip.compress(json.dumps([EVENT] * 500).encode())
    assert (await post(worker, body, 202, **{"Content-Encoding": "gzip"}))["accepted"] == 500


async def test_gzip_of_several_members_is_read(worker: Worker):
    lines = [gzip.compress(json.dumps(EVENT).encode() + b"\n") for _ in range(3)]
    headers = {"Content-Encoding": "gzip"}
    assert (await post(worker, b"".join(lines), 202, **headers))["accepted"] == 3


@pytest.mark.parametrize("missing", ["half of it", "its check sum and length", "one byte"])
async def test_a_gzip_body_that_was_cut_off_is_refused_also_between_two_lines(
    worker: Worker, missing: str
):
    packer = zlib.compressobj(wbits=31)
    line = packer.compress(json.dumps(EVENT).encode() + b"\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    whole = line + packer.compress(json.dumps(EVENT).encode() + b"\n") + packer.flush()
    kept = {
        "half of it": line,
        "its check sum and length": whole[:-8],
        "one byte": whole[:-1],
    }
    answer = await post(worker, kept[missing], 400, **{"Content-Encoding": "gzip"})
    assert "broken off" in answer["detail"]
    assert worker.sink.sent == []


@pytest.mark.parametrize("mib", [2, 64])
async def test_a_zip_bomb_is_too_large(worker: Worker, mib: int):
    await post(worker, gzip.compress(b" " * (mib << 20)), 413, **{"Content-Encoding": "gzip"})
    assert (await post(worker, EVENT, 202))["eventId"]


async def test_what_is_not_gzip_is_refused(worker: Worker, caplog: pytest.LogCaptureFixture):
    await post(worker, b"plainly not gzip at all", 400, **{"Content-Encoding": "gzip"})
    for encoding in ("compress", "br", "zstd", "deflate"):
        await post(worker, b"x", 415, **{"Content-Encoding": encoding})
    assert (await post(worker, EVENT, 202))["eventId"]
    assert caplog.records == []


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:1"])
@pytest.mark.parametrize("path", [URL, "/api/v1/entities/device/d1", "/api/v1/entities/rebuild"])
async def test_a_page_of_another_origin_cannot_send_anything(
    worker: Worker, path: str, origin: str
):
    # What a browser sends without asking first: a simple request.
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    async with worker.client.post(path, data=json.dumps(EVENT), headers=headers) as response:
        answer = json.loads(await response.read())
    assert (response.status, answer["type"]) == (403, "urn:headrace:problem:forbidden-origin")
    assert worker.sink.sent == []


async def test_the_servers_own_page_may_send(worker: Worker):
    await post(worker, EVENT, 202, Origin=str(worker.client.make_url("")).rstrip("/"))


async def test_a_client_that_leaves_half_way_is_no_failure_of_ours(
    worker: Worker, caplog: pytest.LogCaptureFixture
):
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.client.port)
    writer.write(b"POST /api/v1/logs HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    await post(worker, EVENT, 202)
    writer.transport.abort()
    assert await reader.read() == b""
    await post(worker, EVENT, 202)
    assert caplog.records == []
    assert len(worker.sink.sent) == 2


async def test_a39_3_above_the_limit_429_and_the_counter_equals_the_answers():
    async with running_worker(rate=100) as worker:
        statuses = []
        for _ in range(150):
            async with worker.client.post(URL, json=EVENT) as response:
                statuses.append(response.status)
                assert ("Retry-After" in response.headers) == (response.status == 429)
        assert statuses.count(202) == len(worker.sink.sent) == 110
        throttled = worker.registry.get_sample_value("producer_throttled_total")
        assert throttled == statuses.count(429) == 40


async def test_what_cannot_be_made_durable_is_503_with_retry_after(worker: Worker):
    worker.sink.failure = IngestUnavailable("the broker is away", 2)
    answer = await post(worker, EVENT, 503)
    assert "the broker is away" in answer["detail"]


async def test_get_is_405_and_names_what_is_allowed(worker: Worker):
    async with worker.client.get(URL) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json(content_type=None))["title"] == "Method Not Allowed"
