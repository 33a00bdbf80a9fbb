"""The OpenAPI document says what the server answers, no more and no less."""

from __future__ import annotations

import json
import re

from aiohttp import web

from tests.web.fakes import running_worker
from web.api import DOCS_PATH, DOCUMENT_PATH
from web.api.document import document
from web.api.operations import OPERATIONS

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
