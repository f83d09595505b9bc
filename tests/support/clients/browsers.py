"""Debian's Chromium under Playwright, and tabs that fail a test when a page complains.

Playwright comes from PyPI and drives the browser that the machine has: it downloads nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from support.requiring import require

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
TIMEOUT_MS = 40_000  # machines that test have both cores busy
BROKEN = "Failed to load resource"
"""What Chromium itself says about each request that failed or was refused."""


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """A browser without any state."""
    found = shutil.which("chromium")
    require(found, "chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class Tabs:
    """Tabs of one browser profile. `complaints` must be empty at the end, but for what a test expects."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []

    async def open(self, path: str = "/") -> Page:
        page = await self.context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda said: self._heard(said.type, said.text))
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        await page.goto(self.url + path)
        return page

    def _heard(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(f"{kind}: {text}")

    def expect_broken_requests(self) -> None:
        """Forget requests that failed: the test broke them."""
        self.complaints = [said for said in self.complaints if BROKEN not in said]


@asynccontextmanager
async def tabs(browser: Browser, url: str, **options: Any) -> AsyncGenerator[Tabs]:
    """A fresh profile, whose pages must not have complained when it is closed."""
    options = {"viewport": {"width": 1200, "height": 760}, "color_scheme": "light", **options}
    context = await browser.new_context(**options)
    try:
        opened = Tabs(context, url)
        yield opened
        assert opened.complaints == [], opened.complaints
    finally:
        await context.close()


async def barriers(page: Page) -> list[str]:
    """What axe finds that keeps people with assistive technology out."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {[node['html'][:200] for node in violation['nodes']]}"
        for violation in found["violations"]
    ]


async def picture(page: Page, name: str, directory: Path) -> None:
    """Keep what a page looks like: in `directory`, or where MAINSTEM_PICTURES says (docs/images)."""
    kept = Path(os.environ.get("MAINSTEM_PICTURES") or directory) / f"{name}.png"
    await page.evaluate("document.fonts.ready")
    await page.screenshot(path=kept)
