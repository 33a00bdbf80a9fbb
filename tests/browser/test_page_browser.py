"""The page in a real chromium, served as it ships, fed by a scripted WebSocket."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Locator, Page, expect

from web.page import page_routes

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

NONE = "\N{EN DASH}"
T0 = 1_790_000_000_000
HOSTILE = '/<img src=x onerror="window.hacked = true">'


def row(endpoint: str, rate: float, **changed: object) -> dict[str, object]:
    known = {"count": round(rate * 300), "errors": 0, "error_rate": 0.0, "p95_ms": 20.0}
    return {"endpoint": endpoint, "rate": rate} | known | changed


def live(second: int = 0, rate: float = 214.4, **changed: object) -> dict[str, object]:
    """A message of the contract; ``changed`` replaces fields of it or of its data."""
    endpoints = changed.pop("endpoints", [row("/cart", 90.0), row("/", 41.2)])
    data = {"rate": rate, "error_rate": 0.0123, "p95_ms": 148.0, "endpoints": endpoints}
    return envelope(second, state="live", data=data, **changed)


def envelope(second: int = 0, **fields: object) -> dict[str, object]:
    common = {"worker": "w-1", "workers": 2, "staleness_ms": 84, "partial": False}
    return {"seq": second, "ts": T0 + second * 1000} | common | fields


def history(seconds: int) -> list[dict[str, object]]:
    """The ``seconds`` before T0, each with its own rate."""
    return [
        {"ts": T0 - ago * 1000, "rate": 100.0 + ago, "error_rate": 0.01, "p95_ms": 120.0}
        for ago in range(seconds, 0, -1)
    ]


class Feed:
    """The scripted end of ``/ws/metrics``: greets each client, then says what the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.greeting: dict[str, object] | None = None
        self.refusing = False
        self.clients: set[web.WebSocketResponse] = set()
        self.joined = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.refusing:
            raise web.HTTPServiceUnavailable
        client = web.WebSocketResponse()
        await client.prepare(request)
        self.clients.add(client)
        self.joined.set()
        if self.greeting:
            await client.send_json(self.greeting)
        async for _ in client:
            pass
        self.clients.discard(client)
        return client

    async def say(self, message: dict[str, object]) -> None:
        await self.joined.wait()
        for client in self.clients:
            await client.send_json(message)

    async def drop(self) -> None:
        self.joined.clear()
        for client in list(self.clients):
            await client.close()


@pytest_asyncio.fixture(loop_scope="session")
async def feed() -> AsyncIterator[Feed]:
    feed = Feed()
    app = web.Application()
    app.add_routes([*page_routes(), web.get("/ws/metrics", feed.handle)])
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    feed.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield feed
    await feed.drop()
    await runner.cleanup()


def number(page: Page, panel: str) -> Locator:
    return page.locator(f"#{panel} .value")


async def test_while_the_worker_restores_the_page_says_loading(page: Page, feed: Feed) -> None:
    feed.greeting = envelope(state="loading")
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_contain_text("Loading")
    await expect(page.get_by_role("status")).to_contain_text("Restoring state")
    await expect(number(page, "rate")).to_have_text(NONE)
    await feed.say(live(1))
    await expect(page.get_by_role("status")).to_have_text("Live")
    await expect(number(page, "rate")).to_have_text("214/s")


async def test_live_numbers_are_shown_and_replaced_each_message(page: Page, feed: Feed) -> None:
    feed.greeting = live(history=history(200))
    await page.goto(feed.url)
    await expect(number(page, "rate")).to_have_text("214/s")
    await expect(number(page, "errors")).to_have_text("1.23%")
    await expect(number(page, "p95")).to_have_text("148ms")
    await expect(page.locator("#rate .note")).to_have_text("peak 300/s")
    await expect(page.locator("footer")).to_have_text(
        re.compile(r"w-1\s+2 workers answering\s+84\sms behind the stream\s+API")
    )
    await expect(page.locator("footer a")).to_have_attribute("href", "/api/docs")
    await feed.say(live(1, rate=12_345.6))
    await expect(number(page, "rate")).to_have_text("12,346/s")
    await expect(page).to_have_title("12,346/s · Headrace")


async def test_endpoints_are_rows_of_a_table_with_their_names_as_headers(
    page: Page, feed: Feed
) -> None:
    slow = row("/checkout", 10.0, errors=240, error_rate=0.08, p95_ms=1430.0)
    feed.greeting = live(endpoints=[row("/cart", 90.0, p95_ms=None), slow])
    await page.goto(feed.url)
    table = page.get_by_role("table", name="Top endpoints")
    rate = table.get_by_role("columnheader", name="Rate", exact=True)
    await expect(rate).to_have_attribute("title", "Requests per second, over the last ten seconds")
    await expect(table.get_by_role("rowheader")).to_have_text(["/cart", "/checkout"])
    cells = table.get_by_role("row", name="/checkout").get_by_role("cell")
    await expect(cells).to_have_text(["10.0/s", "8.00%", "1.43\u00a0s", "3,000", "240"])
    await expect(table.get_by_role("row", name="/cart")).to_contain_text(NONE)


async def test_a_partial_answer_says_that_totals_are_too_low(page: Page, feed: Feed) -> None:
    feed.greeting = live(partial=True)
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_contain_text("Partial")
    await expect(page.get_by_role("status")).to_contain_text("totals too low")


async def test_what_is_wrong_is_a_banner_until_it_is_mended(page: Page, feed: Feed) -> None:
    feed.greeting = live()
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_have_text("Live")
    await expect(page.get_by_role("alert")).to_be_hidden()
    await feed.say(live(1, alert=f"the ledger does not balance: {HOSTILE} {'x' * 500}"))
    banner = page.get_by_role("alert")
    await expect(banner).to_contain_text("the ledger does not balance: /<img")
    assert await banner.locator("img").count() == 0
    await expect(page.get_by_role("status")).to_have_text("Live")
    await page.set_viewport_size({"width": 320, "height": 700})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await feed.say(envelope(2, state="loading", alert="the ledger does not balance"))
    await expect(banner).to_have_text("the ledger does not balance")
    await feed.say(live(3))
    await expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 800, 360])
async def test_nothing_moves_when_the_state_changes(page: Page, feed: Feed, width: int) -> None:
    boxes = """() => [...document.querySelectorAll("figure, #table, thead th")].map((element) => {
        const { x, y, width } = element.getBoundingClientRect();
        return [x, y, width];
    })"""
    await page.set_viewport_size({"width": width, "height": 900})
    feed.greeting = envelope(state="loading")
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_contain_text("Loading")
    loading = await page.evaluate(boxes)
    for message in (live(1), live(2, rate=12_345.6, partial=True)):
        await feed.say(message)
        await expect(page).to_have_title(re.compile("214/s" if message["seq"] == 1 else "12,346"))
        assert await page.evaluate(boxes) == loading


async def test_the_charts_read_the_same_second_under_one_cursor(page: Page, feed: Feed) -> None:
    feed.greeting = live(history=history(299))
    await page.goto(feed.url)
    await expect(number(page, "rate")).to_have_text("214/s")
    await page.locator("#rate .u-over").hover()
    note = page.locator("#rate .note")
    await expect(note).to_have_text(re.compile(r"^\d\d:\d\d:\d\d · 2\d\d/s$"))
    second = (await note.inner_text()).split(" · ")[0]
    await expect(page.locator("#errors .note")).to_have_text(f"{second} · 1.00%")
    await expect(page.locator("#p95 .note")).to_have_text(f"{second} · 120\u00a0ms")


async def test_a_hostile_endpoint_name_is_text(page: Page, feed: Feed) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    feed.greeting = live(endpoints=[row(HOSTILE, 5.0), row("/" + "é" * 10_000, 4.0)])
    await page.set_viewport_size({"width": 320, "height": 700})
    await page.goto(feed.url)
    await expect(page.get_by_role("rowheader").first).to_have_text(HOSTILE)
    assert await page.locator("#rows img").count() == 0
    assert await page.evaluate("window.hacked") is None
    assert "/x" not in asked
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_a_dropped_page_keeps_its_numbers_and_comes_back_by_itself(
    page: Page, feed: Feed
) -> None:
    feed.greeting = live(rate=111.0)
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_have_text("Live")
    feed.refusing = True
    await feed.drop()
    await expect(page.get_by_role("status")).to_contain_text("Reconnecting")
    await expect(page.get_by_role("status")).to_contain_text("Numbers are from")
    await expect(number(page, "rate")).to_have_text("111/s")
    await expect(page.locator("main")).to_have_css("opacity", "0.7")
    feed.greeting = live(30, rate=222.0, history=history(10))
    feed.refusing = False
    await expect(page.get_by_role("status")).to_have_text("Live")
    await expect(number(page, "rate")).to_have_text("222/s")
    await expect(page.locator("main")).to_have_css("opacity", "1")


async def test_three_silent_seconds_are_called_stale_until_the_next_message(
    page: Page, feed: Feed
) -> None:
    feed.greeting = live()
    await page.clock.install()
    await page.goto(feed.url)
    await expect(page.get_by_role("status")).to_have_text("Live")
    await page.clock.fast_forward(3_000)
    await expect(page.get_by_role("status")).to_contain_text("Stale")
    await expect(number(page, "rate")).to_have_text("214/s")
    await feed.say(live(4))
    await expect(page.get_by_role("status")).to_have_text("Live")


async def test_without_events_the_page_says_how_to_send_the_first(page: Page, feed: Feed) -> None:
    feed.greeting = live(rate=0.0, endpoints=[])
    await page.goto(feed.url)
    await expect(page.get_by_role("heading", name="No events yet")).to_be_visible()
    await expect(page.locator("#curl")).to_contain_text(f"curl {feed.url}api/v1/logs")
    await expect(page.locator("#ship")).to_have_text(
        ".venv/bin/faust -A app ship access.log --format combined"
    )
    # Events of an old log are never among the last minutes: the page says where they are.
    await expect(page.locator("#older a")).to_have_attribute(
        "href", "/api/v1/windows/requests_per_endpoint"
    )
    await expect(page.get_by_role("table")).to_be_hidden()
    await feed.say(live(1))
    await expect(page.get_by_role("table")).to_be_visible()
    await expect(page.locator("#empty")).to_be_hidden()


async def test_the_page_needs_no_internet_and_logs_no_error(page: Page, feed: Feed) -> None:
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    feed.greeting = live(history=history(299))
    await page.goto(feed.url, wait_until="networkidle")
    await expect(number(page, "rate")).to_have_text("214/s")
    await page.emulate_media(color_scheme="dark")
    await page.locator("#p95 .u-over").hover()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(feed.url).netloc}
    assert any(url.startswith("ws://") for url in asked)
    assert said == []


async def test_rows_change_places_only_for_a_clear_difference(page: Page, feed: Feed) -> None:
    await page.goto(feed.url)
    settle = """async ([before, rates]) => {
        const { settle } = await import("/static/order.js");
        const endpoints = Object.entries(rates).map(([endpoint, rate]) => ({ endpoint, rate }));
        return settle(before, endpoints).map((e) => e.endpoint);
    }"""
    for before, rates, after in (
        ([], {"a": 1, "b": 3, "c": 2}, ["b", "c", "a"]),
        (["a", "b"], {"a": 100, "b": 105}, ["a", "b"]),
        (["a", "b"], {"a": 100, "b": 120}, ["b", "a"]),
        (["a", "b"], {"b": 1, "new": 9}, ["new", "b"]),
    ):
        assert await page.evaluate(settle, [before, rates]) == after


async def test_points_are_capped_and_silence_breaks_the_line(page: Page, feed: Feed) -> None:
    await page.goto(feed.url)
    kept, first, columns = await page.evaluate(
        """async (history) => {
            const { merge, columns } = await import("/static/points.js");
            const at = (ts) => ({ ts, rate: 1, error_rate: 0, p95_ms: null });
            const points = merge([at(1), at(2)], history, at(history.at(-1).ts + 1000));
            return [points.length, points[0].ts, columns([at(0), at(1000), at(60000)], "rate")];
        }""",
        history(400),
    )
    assert (kept, first) == (300, T0 - 299_000)
    assert columns == [[0, 1, 1.001, 60], [1, 1, None, 1]]
