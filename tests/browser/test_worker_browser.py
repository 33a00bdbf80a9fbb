"""The page on a real worker with a real Kafka behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import Page, expect

from tests.system.harness import Cluster, Worker

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture
def worker(cluster: Cluster) -> Iterator[Worker]:
    running = cluster.worker(HEADRACE_DEMO="1").ready()
    yield running
    running.stop()


async def test_demo_traffic_is_seen_live(page: Page, worker: Worker) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)

    await page.goto(f"http://127.0.0.1:{worker.port}/")

    await expect(page.get_by_role("status")).to_have_text("Live")
    table = page.get_by_role("table", name="Top endpoints")
    await expect(table.get_by_role("rowheader", name="/product/{id}")).to_be_visible()
    await expect(page.locator("footer")).to_contain_text("1 worker answering")
    assert problems == []


async def test_a_killed_worker_is_awaited_and_its_numbers_come_back(
    page: Page, cluster: Cluster, worker: Worker
) -> None:
    await page.goto(f"http://127.0.0.1:{worker.port}/")
    await expect(page.get_by_role("status")).to_have_text("Live")

    worker.kill()
    await expect(page.get_by_role("status")).to_contain_text("Reconnecting")

    again = cluster.worker(worker.port, HEADRACE_DEMO="1")
    try:
        await expect(page.get_by_role("status")).to_have_text("Live")
    finally:
        again.stop()
