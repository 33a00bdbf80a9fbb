"""One chromium for the whole run, and pages that start empty."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

BUSY_MS = 60_000
"""The limit of every wait: a busy machine is no failure."""
expect.set_options(timeout=BUSY_MS)
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The chromium of $CHROMIUM or /usr/bin/chromium; without one the tests fail."""
    path = Path(os.environ.get("CHROMIUM") or "/usr/bin/chromium")
    if not path.is_file():
        pytest.fail(
            f"no chromium at {path}: `apt-get install chromium`, or set CHROMIUM to its path",
            pytrace=False,
        )
    return path


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium(chromium_path: Path) -> AsyncIterator[Browser]:
    """One browser process for the run."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=list(ARGS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """A page in a browser profile of its own."""
    context = await chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(BUSY_MS)
    yield await context.new_page()
    await context.close()
