"""The API's page in a real chromium: it lists what there is, and fetches nothing from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, expect

from web.api import DOCS_PATH, api_routes
from web.api.operations import OPERATIONS
from web.page import page_routes

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[str]:
    """Address of a server with the page and its document as they ship."""
    app = web.Application()
    app.add_routes([*api_routes(), *page_routes()])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_every_operation_is_listed_without_an_error_or_another_host(
    page: Page, server: str
) -> None:
    problems: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("request", lambda request: asked.append(request.url))

    await page.goto(server + DOCS_PATH)

    listed = page.locator(".opblock")
    await expect(listed).to_have_count(len(OPERATIONS))
    found = {
        (await method.inner_text(), await path.get_attribute("data-path"))
        for method, path in zip(
            await listed.locator(".opblock-summary-method").all(),
            await listed.locator(".opblock-summary-path").all(),
            strict=True,
        )
    }
    assert found == {(each.method.upper(), each.path) for each in OPERATIONS}

    trends = page.locator(".opblock").filter(has=page.locator('[data-path="/trends/{service}"]'))
    await trends.locator(".opblock-summary-control").click()
    await expect(trends.get_by_role("button", name="Execute")).to_be_visible()
    await expect(trends.locator(".errors")).to_have_count(0)
    assert problems == []
    hosts = {urlsplit(url).netloc for url in asked if urlsplit(url).scheme != "data"}
    assert hosts == {urlsplit(server).netloc}
    assert server + "/api/openapi.json" in asked
