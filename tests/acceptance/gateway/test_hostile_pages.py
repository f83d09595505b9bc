"""The chat page and what no model should say: it stays quick, shows what there is, and no turn hides another.

A real browser, gateway, worker and store serve the whole file; each test has a thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from support.clients.browsers import TIMEOUT_MS, Tabs, chromium, picture, tabs
from support.models.hostile_texts import HOSTILE
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.processes import worker
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until, wait_until_async

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
expect.set_options(timeout=TIMEOUT_MS)

FROZEN_MS = 1_000
"""Longest task of the page's thread, where other processes have the cores; unbounded, these texts take seconds or for ever."""
LIMIT = 8 * 1024 * 1024
VANISH = {"definitions", "half definitions", "spaces", "space lines", "blank lines", "tabs", "carriage returns", "backticks",
          "underscores", "asterisks", "rules", "dashes", "stars", "empty items"}  # fmt: skip
"""Of these Markdown leaves rules, bullets or nothing."""
WATCH = """
window.tasks = [];
new PerformanceObserver((list) => { for (const { duration } of list.getEntries()) window.tasks.push(duration); })
  .observe({ type: "longtask", buffered: true });
"""


@pytest.fixture(scope="module")
def url(valkey_server: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with valkey_server.client() as client:
        client.flushall()
    store, broker = valkey_server.url(0), valkey_server.url(1)
    env = {
        "MAINSTEM_REDIS_URL": store,
        "MAINSTEM_BROKER_URL": broker,
        "MAINSTEM_ENGINES": "support.engines.hostile_engines",
        "PYTHONPATH": str(TESTS),
    }
    with contextlib.ExitStack() as parts:
        gateway = parts.enter_context(GatewayThread(store, broker))
        child = parts.enter_context(worker(env, tmp_path_factory.mktemp("hostile"), "worker"))
        wait_until(lambda: "@test ready" in child.log, description="the worker to be ready", timeout_s=40)
        yield gateway.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def opened(url: str, browser: Browser) -> AsyncGenerator[Tabs]:
    async with tabs(browser, url) as fresh:
        await fresh.context.add_init_script(WATCH)
        yield fresh


async def ran(url: str, thread: str, engine: str, given: dict[str, Any], **body: Any) -> str:
    """Run an engine on a thread to its end; return the run's id."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        asked = {"engine": engine, "input": given, "metadata": {"prompt": "say it"}, **body}
        started = await client.post(f"/v1/threads/{thread}/runs", json=asked)
        assert started.status_code == 202, started.text
        run_id = started.json()["run_id"]

        async def over() -> bool:
            return (await client.get(f"/v1/runs/{run_id}")).json()["status"] == "succeeded"

        await wait_until_async(over, description=f"{engine} to succeed", timeout_s=60)
    return run_id


async def told(url: str, thread: str, unit: str, size: int) -> None:
    await ran(url, thread, "repeats", {"unit": unit, "size": size})


async def settled(page: Page, turns: int) -> None:
    await expect(page.locator(".turn")).to_have_count(turns)
    await expect(page.locator(".turn-notes")).to_have_count(turns)


async def longest(page: Page) -> float:
    return await page.evaluate("Math.max(0, ...window.tasks)")


async def stays_quick(page: Page, what: str, shown: Callable[[], Awaitable[None]]) -> None:
    """Fail if the page freezes each of three times that it shows this: once may be another process's doing."""
    for tries_left in (2, 1, 0):
        frozen_ms = await longest(page)
        logging.getLogger(__name__).info("%s: longest task %d ms", what, frozen_ms)
        if frozen_ms < FROZEN_MS:
            return
        assert tries_left, f"{what}: {frozen_ms} ms"
        await page.reload()
        await shown()


async def texts(page: Page) -> list[int]:
    """Return how many characters each turn's answer has on the page."""
    return await page.evaluate(
        """[...document.querySelectorAll(".turn")].map((turn) =>
        [...turn.querySelectorAll("[data-part]")].reduce((sum, part) => sum + part.textContent.length, 0))"""
    )


async def test_no_repetition_hides_the_turns_around_it(url: str, opened: Tabs, tmp_path: Path):
    """Every hostile text, on a thread between two ordinary answers: all turns show, each with its text, and none freezes the page."""
    names = list(HOSTILE)
    for start in range(0, len(names), 15):
        thread, chosen = f"many-{start}", names[start : start + 15]
        await told(url, thread, "FIRST ", 6)
        for name in chosen:
            await told(url, thread, HOSTILE[name], 20_000)
        await told(url, thread, "LAST ", 5)
        page = await opened.open(f"/#thread={thread}")
        shown = partial(settled, page, len(chosen) + 2)
        await shown()
        sizes = await texts(page)
        for name, size in zip(chosen, sizes[1:-1], strict=True):
            assert size > 1000 or name in VANISH, name
        await expect(page.locator(".turn").first).to_contain_text("FIRST")
        await expect(page.locator(".turn").last).to_contain_text("LAST")
        await expect(page.locator(".turn-notes").last).to_be_in_viewport()
        await stays_quick(page, f"{chosen}", shown)
        await picture(page, f"hostile-{start}", tmp_path)
        await page.close()


async def test_a_marker_repeated_for_ever_streams(url: str, opened: Tabs):
    """While it grows, and after a reload, the page shows it as text; the next message is answered below it."""
    page = await opened.open("/#thread=live")
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for unit in ("1. ", ">", "- a\n", "*a_ "):
            asked = {"engine": "repeats", "input": {"unit": unit, "size": 400_000}, "if_active": "enqueue"}
            assert (await client.post("/v1/threads/live/runs", json=asked)).status_code == 202
    await settled(page, 4)
    await told(url, "live", "AFTER ", 6)
    await settled(page, 5)
    await expect(page.locator(".turn").last).to_contain_text("AFTER")
    await expect(page.locator(".turn-notes").last).to_be_in_viewport()
    lived = await longest(page)
    await page.reload()
    await settled(page, 5)
    await expect(page.locator(".turn").last).to_contain_text("AFTER")
    assert lived < 5 * FROZEN_MS  # it streams once: there is no second try
    await stays_quick(page, "reloaded", partial(settled, page, 5))


@pytest.mark.parametrize(
    "unit",
    ["Some words of *prose* with a [link](https://example.org).\n\n", "1. ", "_a", "one word, ", "x", "e\u0301\u0316\u0321", "\u202ea\u2067\u05d0 "],
)  # fmt: skip
async def test_the_largest_answers_show_completely(url: str, opened: Tabs, unit: str):
    """Eight megabytes of one unit: all of it is on the page, in small steps, and the page scrolls to its end."""
    size = LIMIT * 9 // 10 // len(unit.encode()) * len(unit)
    thread = f"large-{abs(hash(unit))}"
    await told(url, thread, unit, size)
    page = await opened.open(f"/#thread={thread}")
    wanted = 0.5 * size if "*" in unit else size - 8

    async def complete() -> bool:
        return (await texts(page))[0] >= wanted

    async def shown() -> None:
        await settled(page, 1)
        await wait_until_async(complete, description="the whole answer", timeout_s=150)
        await expect(page.locator(".turn-notes")).to_be_in_viewport()

    await shown()
    await stays_quick(page, unit, shown)
    await page.close()


async def test_thousands_of_calls_show_their_last_ones(url: str, opened: Tabs, tmp_path: Path):
    """The newest parts show, earlier ones when asked for; arguments are written down when somebody looks."""
    await ran(url, "calls", "calls", {"count": 4000, "words": True, "name": 200, "title": 5000})
    page = await opened.open("/#thread=calls")
    await settled(page, 1)
    await expect(page.locator("[data-part=tool_call]")).to_have_count(50)
    await expect(page.locator("[data-part=text]").last).to_have_text("word 3999 ")
    await page.get_by_role("button", name="Show earlier parts (7,900)").click()
    await expect(page.locator("[data-part=tool_call]")).to_have_count(100)
    await page.locator(".call summary").last.click()
    await expect(page.get_by_label("Arguments").last).to_contain_text('"index": 3999')
    assert await page.evaluate("document.title.length") < 300
    await picture(page, "hostile-calls", tmp_path)
    await stays_quick(page, "calls", partial(settled, page, 1))


async def test_deep_and_wide_arguments_are_cut_off(url: str, opened: Tabs, tmp_path: Path):
    """A call whose arguments are deep, wide or long shows their beginning; the turn after it is there."""
    deep: Any = 1
    for _ in range(90):
        deep = [deep, deep] if _ < 6 else {"a": deep}
    given = {"deep": deep, "wide": list(range(20_000)), "long": "x" * 40_000, "k" * 3000: 1}
    await ran(url, "deep", "calls", {"count": 1, "arguments": given})
    await told(url, "deep", "AFTER ", 6)
    page = await opened.open("/#thread=deep")
    await settled(page, 2)
    await page.locator(".call summary").click()
    await expect(page.get_by_label("Arguments")).to_contain_text("cut off here")
    await expect(page.locator(".turn").last).to_contain_text("AFTER")
    await picture(page, "hostile-arguments", tmp_path)
    await stays_quick(page, "arguments", partial(settled, page, 2))


@pytest.mark.parametrize("prompt", [5, {"toString": 1}, ["a"], None, {"slice": "x"}, "p" * 12_000])
async def test_metadata_of_any_kind_hides_nothing(url: str, opened: Tabs, prompt: Any):
    """A client's metadata is whatever it is: the thread, its list and the operator's view show its runs."""
    thread = f"meta-{abs(hash(str(prompt)))}"
    metadata = {"prompt": prompt, "thread_title": prompt if prompt != "p" * 12_000 else 7}
    await ran(url, thread, "repeats", {"unit": "SAID ", "size": 5}, metadata=metadata)
    await told(url, thread, "AFTER ", 6)
    page = await opened.open(f"/#thread={thread}")
    await settled(page, 2)
    await expect(page.locator(".turn").first).to_contain_text("SAID")
    await expect(page.locator(f".threads [data-thread='{thread}']")).to_have_count(1)
    runs = await opened.open("/runs")
    await runs.get_by_role("button", name="Ended").click()
    await runs.get_by_role("searchbox").fill(thread)
    await expect(runs.locator("tbody tr")).to_have_count(2)
    await page.close()
    await runs.close()
