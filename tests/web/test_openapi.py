"""The OpenAPI document says what the server answers, no more and no less."""

from __future__ import annotations

import json
import re
from typing import get_origin

import pytest
from aiohttp import web

from tests.web.fakes import running_worker
from web.api import DOCS_PATH, DOCUMENT_PATH
from web.api.document import Operation, document
from web.api.operations import OPERATIONS
from web.gateway.logs import NDJSON

_UNDESCRIBED = re.compile(r"^(/|/static/.*|/api/docs.*|/api/openapi\.json|/internal/.*)$")


def described(path: str) -> str:
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)


async def test_every_route_is_described_and_every_description_has_a_route() -> None:
    async with running_worker() as one:
        routes = {
            (route.method.lower(), described(route.resource.canonical))
            for route in one.client.server.app.router.routes()
            if isinstance(route, web.ResourceRoute) and route.resource is not None
        }
    routes = {(m, p) for m, p in routes if m != "head" and not _UNDESCRIBED.match(p)}
    assert routes == {(each.method, each.path) for each in OPERATIONS}


async def test_the_document_and_its_page_are_served_from_here() -> None:
    async with running_worker() as one:
        async with one.client.get(DOCUMENT_PATH) as response:
            served = await response.json()
        assert served["openapi"].startswith("3.1")
        async with one.client.get(DOCS_PATH) as response:
            page = await response.text()
            assert response.status == 200
        assert not re.search(r"(src|href)=\"(?!/)", page)
        addresses = re.findall(r"(?:src|href)=\"(/[^\"]+)\"", page)
        assert addresses
        for address in addresses:
            async with one.client.get(address) as response:
                assert response.status == 200, address


def test_every_operation_has_its_own_id_parameters_and_references() -> None:
    made = document(OPERATIONS, "0")
    ids = [each["operationId"] for methods in made["paths"].values() for each in methods.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for path, methods in made["paths"].items():
        for each in methods.values():
            in_path = {p["name"] for p in each["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path)), path
    for name in re.findall(r"#/components/schemas/([^\"]+)", json.dumps(made)):
        assert name in made["components"]["schemas"]


ROOMS = ("Windows", "Monitoring", "Trends", "Sessions", "Entities")
READS = [
    each
    for each in OPERATIONS
    if each.method == "get" and each.tag in ROOMS and not each.admin and 200 in each.answers
]


@pytest.mark.parametrize("read", READS, ids=lambda read: read.path)
def test_every_answer_carries_where_it_is_from_and_how_old_it_is(read: Operation) -> None:
    if read.headers:  # its body is a plain map
        told = {name.removeprefix("Headrace-").lower().replace("-", "_") for name in read.headers}
    else:
        told = set((get_origin(read.answer) or read.answer).__struct_fields__)
    assert told >= {"worker", "watermark_ms", "staleness_ms", "partial"}
    assert len(told & {"partition", "partitions"}) == 1
    assert not told & {"watermark", "staleness"}


def test_every_body_of_a_success_has_a_schema_of_its_own() -> None:
    made = document(OPERATIONS, "0")
    schemas = {
        (path, method): response["content"]["application/json"]["schema"]
        for path, methods in made["paths"].items()
        for method, each in methods.items()
        for status, response in each["responses"].items()
        if status in ("200", "202") and "application/json" in response["content"]
    }
    assert {("/ready", "get"), ("/api/v1/health", "get"), ("/api/v1/logs", "post")} <= set(schemas)
    for where, schema in schemas.items():
        for one in schema.get("oneOf", [schema]):
            assert "$ref" in one or "additionalProperties" in one, where


@pytest.mark.parametrize(
    ("method", "path", "body", "name"),
    [
        ("get", "/ready", None, "Ready"),
        ("get", "/api/v1/health", None, "Health"),
        ("post", "/api/v1/logs", {"source": "shop"}, "Accepted"),
        ("post", "/api/v1/logs/ingest", [{"source": "shop"}, {"source": 7}], "BatchResults"),
    ],
)
async def test_an_answer_has_the_fields_that_its_schema_names(
    method: str, path: str, body: object, name: str
) -> None:
    schemas = document(OPERATIONS, "0")["components"]["schemas"]
    async with (
        running_worker() as one,
        one.client.request(method, path, json=body) as response,
    ):
        answer = await response.json()
    assert answer.keys() == schemas[name]["properties"].keys()
    for item in answer.get("results", ()):
        assert item.keys() <= schemas["ItemResult"]["properties"].keys()


def test_bodies_are_described_as_they_may_be_sent_one_event_a_line_and_gzip_as_well() -> None:
    made = document(OPERATIONS, "0")["paths"]
    contents = made["/api/v1/logs"]["post"]["requestBody"]["content"]
    assert contents.keys() == {"application/json", *NDJSON}
    for path in ("/api/v1/logs", "/api/v1/entities/{type}/{id}"):
        (encoding,) = [p for p in made[path]["post"]["parameters"] if p["in"] == "header"]
        assert (encoding["name"], encoding["schema"]["enum"]) == ("Content-Encoding", ["gzip"])
        assert encoding["required"] is False


@pytest.mark.parametrize(
    ("path", "field", "reason"),
    [
        (
            "/api/v1/windows/requests_per_endpoint/k?form=-15m",
            "form",
            "is not known; accepted here: from, to, state, consistency",
        ),
        ("/api/v1/windows/requests_per_endpoint?from=-15m", "from", "is not known; accepted"),
        ("/trends?window=1m", "window", "is not known; accepted here: consistency"),
        ("/trends/shop?from=-5m", "from", "is not known; accepted here: consistency"),
        ("/metrics/requests?endpoint=/a", "endpoint", "is not known; accepted here: consist"),
        ("/metrics/latency?endpoint=/a&endpoint=/b", "endpoint", "is given more than once"),
        ("/api/v1/sessions/analytics?limit=5", "limit", "is not known; accepted here: type, from"),
        ("/api/v1/entities/device/1?from=now", "from", "is not known; accepted here: consist"),
        ("/api/v1/ledger?topic=x", "topic", "is not known"),
        ("/ready?x", "x", "is not known"),
    ],
)
async def test_a_parameter_that_is_not_described_is_a_400_that_names_those_that_are(
    path: str, field: str, reason: str
) -> None:
    async with running_worker() as one:
        for send in (one.client.get, one.client.head):
            async with send(path) as response:
                assert response.status == 400
        problem = await one.json(path, 400)
    assert problem["type"] == "urn:headrace:problem:invalid-request"
    (error,) = problem["errors"]
    assert error["field"] == field
    assert error["reason"].startswith(reason)


async def test_a_change_sent_with_a_parameter_is_refused_before_its_body_is_read() -> None:
    async with running_worker() as one, one.client.post("/api/v1/logs?level=INFO") as response:
        assert response.status == 400
        assert "parameter level" in (await response.json(content_type=None))["detail"]
    assert one.sink.sent == []


async def test_what_is_not_described_takes_any_parameter() -> None:
    async with running_worker() as one:
        for path in ("/static/app.js?v=3", f"{DOCUMENT_PATH}?x=1", "/internal/live?x=1"):
            async with one.client.get(path) as response:
                assert response.status == 200, path
