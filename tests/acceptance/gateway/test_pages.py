"""The pages in a real browser, against a live gateway, worker and store: what people do, and what they see.

One stack and one browser serve the whole file; each test has a profile and a thread of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from support.clients.browsers import TIMEOUT_MS, Tabs, barriers, chromium, picture, tabs
from support.engines.demowords import demo_text
from support.fakes import webhook_receiver
from support.fakes.identity_provider import SETTINGS, bearer, token
from support.fakes.webhook_receiver import Receiver
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.processes import Child, worker
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.asyncio(loop_scope="module")
expect.set_options(timeout=TIMEOUT_MS)

FLOWER = "http://flower.test"
KEPT = "MAINSTEM_PICTURES" in os.environ


class Stack:
    """A store, a gateway and a worker, each of which can be replaced."""

    def __init__(self, server: ValkeyProcess, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.parts = contextlib.ExitStack()
        self.port = free_port()
        self.hook_port = free_port()
        self.callbacks: dict[str, Any] = {
            "callback_hosts": f"127.0.0.1:{self.hook_port}",
            "callback_http": True,
            "callback_networks": "127.0.0.0/8",
            "webhook_secrets": "whsec_" + base64.b64encode(os.urandom(32)).decode(),
        }
        self.starts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_gateway(self) -> None:
        addresses = (self.server.url(0), self.server.url(1))
        self.gateway = self.parts.enter_context(
            GatewayThread(
                *addresses, port=self.port, flower_url=FLOWER, default_engine="demo", **self.callbacks
            )
        )

    def start_worker(self) -> None:
        env = {
            "MAINSTEM_REDIS_URL": self.server.url(0),
            "MAINSTEM_BROKER_URL": self.server.url(1),
            "MAINSTEM_ENGINES": "support.engines.page_engines",
            "PYTHONPATH": str(TESTS),
            **{f"MAINSTEM_{name.upper()}": str(value) for name, value in self.callbacks.items()},
        }
        self.starts += 1
        child = worker(env, self.directory, f"worker{self.starts}")
        self.worker: Child = self.parts.enter_context(child)
        wait_until(lambda: "@test ready" in child.log, description="the worker to be ready", timeout_s=40)


@pytest.fixture(scope="module")
def stack(valkey_server: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    with valkey_server.client() as client:
        client.flushall()
    running = Stack(valkey_server, tmp_path_factory.mktemp("pages"))
    with running.parts:
        running.start_gateway()
        running.start_worker()
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def opened(stack: Stack, browser: Browser) -> AsyncGenerator[Tabs]:
    async with tabs(browser, stack.url) as fresh:
        yield fresh


async def say(page: Page, message: str | dict[str, Any]) -> None:
    """Write a message and press Enter; an object is the engine's input as it stands."""
    field = page.get_by_label("Message", exact=True)
    await field.fill(message if isinstance(message, str) else json.dumps(message))
    await field.press("Enter")


async def answer(page: Page) -> str:
    """Return the text of the last answer, as it stands on the page."""
    return await page.evaluate(
        """() => [...[...document.querySelectorAll('.turn')].at(-1)?.querySelectorAll('[data-part=text]') ?? []]
        .map((part) => part.textContent).join(' ')"""
    )


async def reads(page: Page, words: int) -> str:
    """Wait until the answer has so many words; return it."""

    async def enough() -> str:
        text = await answer(page)
        return text if len(text.split()) >= words else ""

    return await wait_until_async(enough, description=f"{words} words", timeout_s=40)


async def finished(page: Page) -> None:
    await expect(page.locator(".turn").last.locator(".turn-notes")).to_be_visible()


# -- looks


async def test_the_ready_made_messages_show_what_there_is_to_see(opened: Tabs, tmp_path: Path):
    """A stream with Markdown, an approval, a question, a failure: each one press away, and free of barriers."""
    page = await opened.open()
    await expect(page.locator(".suggestion")).to_have_count(4)
    assert await barriers(page) == []
    await picture(page, "page-empty", tmp_path)
    for name, shows in (("See it fail", ".failure"), ("Approve a tool call", ".action-card")):
        await page.get_by_role("button", name="New conversation").click()
        await page.get_by_role("button", name=name).click()
        await expect(page.locator(shows)).to_be_visible()
        assert await barriers(page) == []
        await picture(page, {".failure": "page-error"}.get(shows, "page-approval"), tmp_path)
    if KEPT:  # takes a while, and tests nothing that `test_operators_see…` does not
        await busy(page)
    await page.get_by_role("button", name="New conversation").click()
    await page.get_by_role("button", name="Watch it stream").click()
    await expect(page.locator(".markdown tbody tr").nth(2)).to_be_visible()
    await picture(page, "page-streaming", tmp_path)
    await page.keyboard.press("Escape")
    await page.goto(opened.url + "/runs")
    await expect(page.locator("tbody tr")).not_to_have_count(0)
    if KEPT:
        await page.wait_for_timeout(30_000)  # for lines to draw
    await picture(page, "runs", tmp_path)


async def busy(page: Page) -> None:
    """Have the page's gateway do what a day's work looks like."""
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("reports", "Summarise last week's incident reports", {"tokens": 3000, "interval_ms": 22}),
        ("mail", "Draft a reply to the Lisbon office", {"tokens": 3000, "interval_ms": 35}),
        ("code", "Review the migration script", {"tokens": 3000, "interval_ms": 14}),
        ("code", "Then write its tests", {"tokens": 3000, "interval_ms": 14}),
        ("refund", "Refund order 4711 if the policy allows it", {"tokens": 9, "approve_at": [4]}),
        ("trip", "Plan the team's trip to Porto", {"tokens": 9, "ask_at": [3]}),
    ]
    for thread, prompt, given in wanted:
        body = {"engine": "demo", "input": given, "metadata": {"prompt": prompt}, "if_active": "enqueue"}
        answered = await page.request.post(f"{page.url.split('#')[0]}v1/threads/{thread}/runs", data=body)
        assert answered.status == 202


async def test_pages_fit_a_phone(stack: Stack, browser: Browser, tmp_path: Path):
    """Nothing is wider than the screen; the list of conversations opens and closes, by touch and by Escape."""
    phone = {"width": 360, "height": 740}
    async with tabs(browser, stack.url, viewport=phone, has_touch=True, is_mobile=True) as opened:
        page = await opened.open()
        await page.get_by_role("button", name="Watch it stream").tap()
        await expect(page.locator(".markdown pre")).to_be_visible()
        await picture(page, "page-phone", tmp_path)
        await expect(page.locator(".sidebar")).to_be_hidden()
        await page.get_by_role("button", name="Open the list").tap()
        await expect(page.locator(".sidebar")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator(".sidebar")).to_be_hidden()
        runs = await opened.open("/runs")
        await expect(runs.locator("tbody tr")).not_to_have_count(0)
        for shown in (page, runs):
            assert await barriers(shown) == []
            wide = await shown.evaluate("document.documentElement.scrollWidth")
            assert wide <= phone["width"]


async def test_dark_is_the_systems_choice_until_somebody_chooses(
    stack: Stack, browser: Browser, tmp_path: Path
):
    """Dark where the system is, light where it was chosen here, also after a reload; readable in both."""
    async with tabs(browser, stack.url, color_scheme="dark") as opened:
        page = await opened.open()
        background = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(background)
        await page.get_by_role("button", name="Watch it stream").click()
        await expect(page.locator(".markdown pre")).to_be_visible()
        assert await barriers(page) == []
        await picture(page, "page-dark", tmp_path)
        await page.get_by_role("button", name="Switch between light and dark").click()
        light = await page.evaluate(background)
        assert light != dark
        await page.reload()
        assert await page.evaluate(background) == light


# -- streams


async def test_a_run_streams_to_its_exact_text(opened: Tabs):
    """Typed, sent with Enter; while it streams it can be stopped; afterwards the next one can be sent."""
    page = await opened.open()
    await expect(page.locator("#connection")).to_have_text("Connected")
    assert await page.evaluate("document.activeElement === document.body")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the message field")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await page.keyboard.type("two")
    await page.keyboard.press("Shift+Enter")
    assert await page.get_by_label("Message", exact=True).input_value() == "two\n"
    await say(page, {"tokens": 5000, "interval_ms": 20})
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator(".markdown.streaming")).to_have_count(1)
    await reads(page, 3)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".turn-notes")).to_contain_text("Stopped")
    assert demo_text(5000).startswith(await answer(page))
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    await expect(page.locator("#connection")).to_have_text("Connected")
    await say(page, {"tokens": 40, "interval_ms": 10})
    await expect(page.locator(".turn-notes")).to_have_count(2)
    assert await answer(page) == demo_text(40)
    await expect(page.locator("#announcer")).to_contain_text("Answer complete. w0 w1")


async def test_a_reload_in_mid_stream_loses_no_character(opened: Tabs):
    """What was there is there at once, the rest follows, and what was being written is still in the field."""
    page = await opened.open()
    await say(page, {"tokens": 300, "interval_ms": 15})
    before = await reads(page, 10)
    await page.get_by_label("Message", exact=True).fill("half a thought")
    await page.reload()
    await expect(page.locator(".turn")).to_have_count(1)
    assert (await reads(page, 10)).startswith(before)
    await expect(page.get_by_label("Message", exact=True)).to_have_value("half a thought")
    await finished(page)
    assert await answer(page) == demo_text(300)
    await page.reload()
    await finished(page)
    assert await answer(page) == demo_text(300)


async def test_tabs_on_one_run_show_the_same(opened: Tabs):
    """The second tab joins in mid-stream; what it starts later shows in the first one without being asked."""
    first = await opened.open()
    await say(first, {"tokens": 150, "interval_ms": 20})
    await reads(first, 5)
    second = await opened.open("/" + first.url.removeprefix(opened.url).lstrip("/"))
    for page in (first, second):
        await finished(page)
        assert await answer(page) == demo_text(150)
    await say(second, {"tokens": 4, "interval_ms": 0})
    await expect(first.locator(".turn-notes")).to_have_count(2)
    assert await answer(first) == demo_text(4)


async def test_a_run_behind_another_one_streams_when_its_turn_comes(opened: Tabs):
    """Started elsewhere, it shows by itself, waits visibly, and is followed as soon as the first one ended."""
    page = await opened.open()
    await say(page, {"tokens": 5000, "interval_ms": 20})
    await reads(page, 2)
    thread = page.url.partition("#thread=")[2]
    body = {"engine": "demo", "input": {"tokens": 30, "interval_ms": 5}, "if_active": "enqueue"}
    await page.request.post(f"{opened.url}/v1/threads/{thread}/runs", data=body)
    await expect(page.get_by_text("Waits for its turn")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator(".turn-notes")).to_have_count(2)
    assert await answer(page) == demo_text(30)


async def test_a_page_without_network_catches_up(opened: Tabs):
    """Offline it says so and keeps what it has; back online it goes on by itself, exactly."""
    page = await opened.open()
    await say(page, {"tokens": 300, "interval_ms": 15})
    await reads(page, 5)
    await opened.context.set_offline(True)
    await expect(page.locator("#connection")).to_have_text("Offline")
    await opened.context.set_offline(False)
    await expect(page.locator("#connection")).not_to_have_text("Offline")
    await finished(page)
    assert await answer(page) == demo_text(300)
    opened.expect_broken_requests()


async def test_what_is_written_before_the_gateway_answers_is_not_lost(opened: Tabs):
    """The field takes text from the first moment on, and what is written while a run starts stays in it."""
    page = await opened.context.new_page()
    held: list[Route] = []
    await page.route("**/v1/**", lambda route: held.append(route))  # noqa: PLW0108 - it is given attributes
    await page.goto(opened.url)
    field = page.get_by_label("Message", exact=True)
    await field.fill('{"tokens": 4, "interval_ms": 0}')

    async def let_go(part: str) -> None:
        await wait_until_async(lambda: any(part in route.request.url for route in held), description=part)
        for route in [route for route in held if part in route.request.url]:
            held.remove(route)
            await route.continue_()

    await let_go("/v1/me")
    await let_go("/v1/threads?")
    await expect(page.locator("#connection")).to_have_text("Connected")
    await field.press("Enter")
    await field.fill("and then")
    await let_go("/runs")
    await page.unroute("**/v1/**")
    for route in held:
        await route.continue_()
    await finished(page)
    assert await answer(page) == demo_text(4)
    await expect(field).to_have_value("and then")


# -- people in the loop


async def test_calls_are_decided_and_questions_answered(opened: Tabs):
    """Approve, reject with a reason, edit, answer in the tool's place, answer a question: one run, five pauses."""
    page = await opened.open()
    await say(page, {"tokens": 12, "interval_ms": 0, "approve_at": [2, 4, 6, 8], "ask_at": [10]})
    card = page.locator(".action-card")
    call = lambda k: page.locator(f"[data-call=demo_tool_{k}]")  # noqa: E731 - a word for a place
    await call(2).get_by_role("button", name="Approve").click()
    await call(4).get_by_role("button", name="Reject").click()
    await page.keyboard.type("not today")
    await call(4).get_by_role("button", name="Reject", exact=True).last.click()
    await call(6).get_by_role("button", name="Edit").click()
    await call(6).get_by_label("Arguments, as JSON").fill('{"at": ')
    await expect(call(6).get_by_role("button", name="Approve with changes")).to_be_disabled()
    await call(6).get_by_label("Arguments, as JSON").fill('{"at": "far"}')
    await call(6).get_by_role("button", name="Approve with changes").click()
    await expect(card.get_by_role("alert")).to_contain_text("do not fit the tool")  # the gateway judges, too
    opened.expect_broken_requests()
    await call(6).get_by_label("Arguments, as JSON").fill('{"at": 99}')
    await call(6).get_by_role("button", name="Approve with changes").click()
    await call(8).get_by_role("button", name="Answer instead").click()
    await page.keyboard.press("Escape")  # closes the field, and stops nothing
    await call(8).get_by_role("button", name="Answer instead").click()
    await page.keyboard.type("instead")
    await page.keyboard.press("Control+Enter")
    await expect(card.get_by_text("What shall stand before word 10?")).to_be_visible()
    await card.get_by_role("textbox").fill("forty-two")
    assert await barriers(page) == []
    await card.get_by_role("button", name="Answer").click()
    await finished(page)
    said = " ".join((await answer(page)).split())
    assert said == "w0 w1 w2 w3 [rejected:4] w5 w99 w7 instead w9 forty-two w10 w11"
    notes = page.locator(".call-note")
    assert await notes.all_text_contents() == [
        "approved",
        "at: 4",
        "approved with changes",
        "answered for it",
    ]
    await expect(page.locator(".call .chip")).to_have_text(["done", "rejected", "done", "done"])


async def test_all_that_an_engine_can_say_has_its_place(opened: Tabs):
    """Thoughts, a title, calls that are decided together, a question with options, usage; and again after a reload."""
    page = await opened.open()
    await page.get_by_label("Engine", exact=True).select_option("planning")
    await say(page, "Plan the dinner")
    await expect(page.locator("#title")).to_have_text("Dinner for six")
    send = page.get_by_role("button", name="Send decisions")
    await expect(page.get_by_role("heading", name="2 tool calls need your approval")).to_be_visible()
    await expect(send).to_be_disabled()
    table, taxi = page.locator("[data-call=table]"), page.locator("[data-call=taxi]")
    await expect(table.get_by_role("button", name="Answer instead")).to_have_count(0)
    await expect(taxi).to_contain_text("costs money")
    await table.get_by_role("button", name="Edit").click()
    await table.get_by_label("Arguments, as JSON").fill('{"place": "Solar", "people": 7}')
    await expect(send).to_be_disabled()  # the other one is not decided yet
    await taxi.get_by_role("button", name="Reject").click()
    assert await barriers(page) == []
    await send.click()
    await page.get_by_role("button", name="20:30").click()
    await page.get_by_role("button", name="Answer").click()
    await finished(page)
    for _ in ("as it went", "read again"):
        await expect(page.locator(".call .chip")).to_have_text(["done", "rejected"])
        await page.locator(".call summary").first.click()
        await expect(page.get_by_label("Result").first).to_contain_text('"people": 7')
        await page.locator("summary", has_text="Thoughts").press(
            "Enter"
        )  # a press of the mouse may miss what scrolls
        await expect(page.get_by_text("A table, and a way to get there.")).to_be_visible()
        await expect(page.locator(".turn-notes")).to_contain_text("120 in · 34 out")
        assert await answer(page) == "I would do both: See you at 20:30."
        assert await barriers(page) == []
        await page.reload()


async def test_a_paused_run_is_approved_after_everything_restarted(stack: Stack, opened: Tabs):
    """Worker and gateway are replaced while it waits; the open page notices, and then the approval counts."""
    page = await opened.open()
    await say(page, {"tokens": 6, "interval_ms": 0, "approve_at": [3]})
    approve = page.get_by_role("button", name="Approve")
    await expect(approve).to_be_visible()
    stack.worker.stop()
    stack.gateway.stop()
    await expect(page.locator("#connection")).to_have_text("Reconnecting")
    stack.start_gateway()
    stack.start_worker()
    await expect(page.locator("#connection")).to_have_text("Live")
    await approve.click()
    await finished(page)
    assert (await answer(page)).split() == demo_text(6).split()
    opened.expect_broken_requests()


async def test_what_is_said_to_a_run_shows_where_it_was_read(opened: Tabs):
    """It waits visibly until the engine reads it; after a reload it stands in the same place."""
    page = await opened.open()
    await say(page, {"tokens": 100, "interval_ms": 30, "echo_input": True})
    await reads(page, 3)
    await say(page, "SHORTER")
    await expect(page.locator(".steered:not(.pending)")).to_have_text("SHORTER")
    await page.keyboard.press("Escape")
    await finished(page)
    text = await answer(page)
    assert "SHORTER" in text
    shown = await page.locator(".parts").inner_text()
    await page.reload()
    await finished(page)
    assert await page.locator(".parts").inner_text() == shown


async def test_what_nobody_read_is_offered_again(opened: Tabs):
    """An engine that does not listen loses no words of the user's: they can be sent as the next message."""
    page = await opened.open()
    await say(page, {"tokens": 5000, "interval_ms": 20})
    await reads(page, 2)
    await say(page, '{"tokens": 2, "interval_ms": 0}')
    await expect(page.locator(".steered.pending")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Send as a message").click()
    await expect(page.locator(".turn-notes")).to_have_count(2)
    assert await answer(page) == demo_text(2)


async def test_a_conversation_is_deleted_at_the_second_press(opened: Tabs):
    """Gone from the list, the page and the store."""
    page = await opened.open()
    await say(page, {"tokens": 2, "interval_ms": 0})
    await finished(page)
    thread = page.url.partition("#thread=")[2]
    row = page.locator(f"[data-thread='{thread}']")
    await row.hover()
    await row.get_by_role("button", name="Delete this conversation").click()
    await row.get_by_role("button", name="Delete it for good").click()
    await expect(row).to_have_count(0)
    await expect(page.locator(".suggestion")).to_have_count(4)
    assert (await (await page.request.get(f"{opened.url}/v1/threads/{thread}/runs")).json())["runs"] == []


def words(text: str, tokens: int = 3) -> dict[str, Any]:
    """The demo engine's input for a message of a user."""
    return {"tokens": tokens, "interval_ms": 0, "message": text}


async def bubbles(page: Page) -> list[str]:
    return await page.locator(".said .bubble").all_text_contents()


async def test_an_edit_and_a_regeneration_are_versions_to_switch_between(opened: Tabs, tmp_path: Path):
    """By keyboard too; what is written next follows what is shown; a reload shows the latest."""
    page = await opened.open()
    await say(page, words("first"))
    await finished(page)
    await say(page, words("second"))
    await expect(page.locator(".turn-notes")).to_have_count(2)
    last = page.locator(".turn").last
    await last.get_by_role("button", name="Regenerate").click()
    await expect(last.get_by_label("Versions of this answer")).to_contain_text("2/2")
    await last.get_by_role("button", name="Edit this message").focus()
    await page.keyboard.press("Enter")
    await page.get_by_label("Edited message").fill("never mind")
    await page.keyboard.press("Escape")
    await expect(page.get_by_label("Edited message")).to_have_count(0)
    await last.get_by_role("button", name="Edit this message").click()
    await page.get_by_label("Edited message").fill("second, edited")
    await page.keyboard.press("Enter")
    versions = page.get_by_label("Versions of this message")
    await expect(versions).to_contain_text("2/2")
    await finished(page)
    assert await bubbles(page) == ["first", "second, edited"]
    assert await barriers(page) == []
    await picture(page, "page-branches", tmp_path)
    await page.get_by_role("button", name="Previous message").click()
    await expect(versions).to_contain_text("1/2")
    assert await bubbles(page) == ["first", "second"]
    await say(page, words("and a third"))
    await expect(page.locator(".turn-notes")).to_have_count(3)
    await page.reload()
    await expect(page.locator(".turn-notes")).to_have_count(3)
    assert await bubbles(page) == ["first", "second", "and a third"]
    await expect(page.get_by_label("Versions of this answer")).to_contain_text("2/2")


async def test_conversations_are_found_and_renamed(opened: Tabs, tmp_path: Path):
    """A long message is whole, after *Regenerate* too; a new name is everywhere at once."""
    page = await opened.open()
    long = "word " * 3000 + "END"
    await say(page, words(long))
    await finished(page)
    assert await bubbles(page) == [long]
    await page.get_by_role("button", name="Regenerate").click()
    await expect(page.get_by_label("Versions of this answer")).to_contain_text("2/2")
    assert await bubbles(page) == [long]
    other = await opened.open(page.url.removeprefix(opened.url))
    thread = page.url.partition("#thread=")[2]
    row = page.locator(f"[data-thread='{thread}']")
    await row.hover()
    await row.get_by_role("button", name="Rename").click()
    await page.keyboard.type("A name of its own")
    await page.keyboard.press("Enter")
    for tab in (page, other):
        await expect(tab.locator("#title")).to_have_text("A name of its own")
    await page.get_by_label("Search conversations").fill("NAME of")
    await expect(page.locator(".threads li")).to_have_count(1)
    assert await barriers(page) == []
    await picture(page, "page-search", tmp_path)
    await page.get_by_label("Search conversations").fill("nothing has this")
    await expect(page.get_by_text("No title has that.")).to_be_visible()


async def test_escape_stops_a_run(opened: Tabs):
    """What it had said stays, as an exact prefix."""
    page = await opened.open()
    await say(page, {"tokens": 5000, "interval_ms": 20})
    await reads(page, 5)
    await page.keyboard.press("Escape")
    await expect(page.locator(".turn-notes")).to_contain_text("Stopped")
    assert demo_text(5000).startswith(await answer(page))


async def test_a_failure_is_shown_and_can_be_tried_again(opened: Tabs):
    """With its reason, the text until then, and a button that has the same answered once more."""
    page = await opened.open()
    await say(page, {"tokens": 9, "interval_ms": 0, "fail_at": 4})
    await expect(page.locator(".failure")).to_contain_text("The engine failed")
    await expect(page.locator(".failure")).to_contain_text("asked to fail before word 4")
    assert await answer(page) == demo_text(4)
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_label("Versions of this answer")).to_contain_text("2/2")
    await expect(page.locator(".failure")).to_have_count(1)


async def test_a_refused_message_is_not_lost(opened: Tabs):
    """It comes back into the field, with the gateway's words beside it."""
    page = await opened.open()
    await say(page, {"tokens": "many"})
    await expect(page.get_by_role("alert")).to_contain_text("tokens")
    await expect(page.get_by_label("Message", exact=True)).to_have_value('{"tokens": "many"}')
    opened.expect_broken_requests()


HOSTILE = """<img src=x onerror="window.owned=1"> <script>window.owned=1</script>

[a](javascript:alert(1)) [b](data:text/html,x) ![c](http://evil.test/pixel.png) [d](https://good.test)

<iframe src="http://evil.test"></iframe>

`<b>` **bold** &lt;i&gt;"""


async def test_what_a_model_writes_is_text(opened: Tabs):
    """Markdown is shown as such; tags are text, no image is fetched, and links lead to the web only."""
    page = await opened.open()
    await say(page, {"text": HOSTILE, "interval_ms": 0})
    await finished(page)
    found = page.locator("[data-part=text]")
    assert await found.locator("img, script, iframe, b, i").count() == 0
    hrefs = await found.locator("a").evaluate_all("(links) => links.map((link) => link.href)")
    assert hrefs == ["http://evil.test/pixel.png", "https://good.test/"]
    await expect(found.locator("strong")).to_have_text("bold")
    assert "<iframe" in await answer(page)
    assert not await page.evaluate("'owned' in window")


# -- the operator's view


async def test_operators_see_runs_and_abort_them(opened: Tabs):
    """Status, worker, speed and what waits for people; rows are refreshed in place; abort asks once."""
    chat = await opened.open()
    await say(chat, {"tokens": 5000, "interval_ms": 20})
    await reads(chat, 3)
    waiting = await opened.open()
    await say(waiting, {"tokens": 3, "interval_ms": 0, "approve_at": [1]})
    await expect(waiting.locator(".action-card")).to_be_visible()
    run_id = await chat.locator(".turn").get_attribute("data-run")
    page = await opened.open("/runs")
    row = page.locator(f"tr[data-run='{run_id}']")
    await expect(row.locator(".badge")).to_have_text("Running")
    await expect(row.locator(".rate")).to_have_text(re.compile(r"^[1-9][0-9.]*$"))
    await expect(row.locator(".worker")).to_have_text(re.compile(r"\w"))
    await expect(row.get_by_role("link", name="Flower")).to_have_attribute(
        "href", re.compile(f"^{FLOWER}/task/")
    )
    await expect(page.locator("tr[data-status=requires_action]").first).to_contain_text("1 approval")
    charts = page.get_by_role("region", name="The whole fleet")
    await expect(charts.get_by_role("img")).to_have_count(5)
    await expect(charts.get_by_role("img").nth(1)).to_have_attribute(
        "aria-label", re.compile("Oldest queued run")
    )
    await charts.get_by_role("button", name="6 hours").press("Enter")
    await expect(charts.locator("[data-chart=ended] .chart-hint")).to_have_count(360)
    assert await barriers(page) == []
    await row.evaluate("(node) => { node.kept = true }")
    await row.get_by_role("button", name="Abort").click()
    await row.get_by_role("button", name="Abort now?").click()
    await expect(row).to_have_count(0)
    await expect(chat.locator(".turn-notes")).to_contain_text("Stopped")
    await page.get_by_role("button", name="Ended").click()
    await expect(row.locator(".badge")).to_have_text("Aborted")
    assert await row.evaluate("(node) => node.kept")
    await row.get_by_role("link").first.click()
    await expect(page.locator("#state")).to_have_text("Aborted")
    await expect(page.locator("#timeline")).to_contain_text("Somebody asked it to stop")
    await page.get_by_role("link", name="Open in the chat").click()
    await finished(page)
    assert demo_text(5000).startswith(await answer(page))


async def test_a_failed_run_tells_what_happened(opened: Tabs, tmp_path: Path):
    """It is under Failed, found by its error's words; its page has the timeline, the error and the way to run it again."""
    chat = await opened.open()
    await say(chat, {"tokens": 3, "fail_at": 1})
    run_id = await chat.locator(".turn").get_attribute("data-run")
    page = await opened.open("/runs")
    await page.get_by_role("button", name="Failed").click()
    row = page.locator(f"tr[data-run='{run_id}']")
    await expect(row.locator(".badge")).to_have_text("Failed")
    await page.get_by_label("Search runs").fill("no such word")
    await expect(row).to_have_count(0)
    await page.get_by_label("Search runs").fill("engine_error")
    await expect(row).to_have_count(1)
    await row.get_by_role("link").first.press("Enter")
    await expect(page.locator("#state")).to_have_text("Failed")
    await expect(page.locator("#failure")).to_contain_text("engine_error")
    await expect(page.locator("#timeline li")).to_have_count(3)
    assert await barriers(page) == []
    for width in (1280, 390):
        await page.set_viewport_size({"width": width, "height": 800})
        await page.screenshot(
            path=Path(os.environ.get("MAINSTEM_PICTURES", tmp_path)) / f"run-{width}.png", full_page=True
        )
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
    await page.get_by_role("button", name="Fork the thread here").press("Enter")
    await expect(page.locator(".turn")).to_have_count(1)
    await page.go_back()
    await page.get_by_role("button", name="Run again").click()
    await expect(page.locator("#run-id")).not_to_have_text(str(run_id))
    await expect(page.locator("#state")).to_have_text("Failed")


async def test_a_callback_that_was_given_up_is_sent_again(stack: Stack, browser: Browser, tmp_path: Path):
    """All runs' page lists it, its run's page tells what came of it; a key press there has it sent again."""
    addresses = (stack.server.url(0), stack.server.url(1))
    async with webhook_receiver.receiving(port=stack.hook_port) as receiver:
        receiver.answers.append(b"410 Gone\r\ncontent-length: 0\r\n")
        with GatewayThread(*addresses, **SETTINGS, **stack.callbacks) as locked:
            run_id = await given_up(locked.url, receiver)
            async with tabs(browser, locked.url) as opened:
                page = await opened.open(f"/runs#token={token('root', scope='admin')}")
                listed = page.get_by_role("region", name="Callbacks that were given up").get_by_role(
                    "listitem"
                )
                await expect(listed).to_contain_text("tried once")
                assert await barriers(page) == []
                await picture(page, "callbacks-all", tmp_path)
                await listed.get_by_role("link", name=run_id).press("Enter")
                shown = page.get_by_role("region", name="Callbacks that are not delivered")
                await expect(shown).to_contain_text("the receiver answered 410")
                assert await barriers(page) == []
                for width in (390, 1280):
                    await page.set_viewport_size({"width": width, "height": 800})
                    await picture(page, f"callbacks-{width}", tmp_path)
                    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
                await shown.get_by_role("button", name="Send again").press("Enter")
                await wait_until_async(
                    lambda: len(receiver.received) == 2, description="it to be sent again", timeout_s=40
                )
                await expect(shown).to_be_hidden()
                assert len(set(receiver.ids)) == 1


async def given_up(url: str, receiver: Receiver) -> str:
    """Have a run whose callback was given up, as its receiver wants to hear no more."""
    async with httpx.AsyncClient(base_url=url, headers=bearer("root", scope="admin")) as http:
        body = {"engine": "demo", "input": {"tokens": 1}, "callback": {"url": receiver.url()}}
        started = await http.post("/v1/threads/told/runs", json=body)
        run_id = started.raise_for_status().json()["run_id"]

        async def is_given_up() -> bool:
            listed = (await http.get("/v1/callbacks")).json()["callbacks"]
            return any(one["given_up"] for one in listed if one["run_id"] == run_id)

        await wait_until_async(is_given_up, description="the callback to be given up", timeout_s=40)
    return run_id


async def test_a_bulk_abort_counts_first(opened: Tabs):
    """It stops what the search matches and nothing else, after it said how many."""
    chats = [await opened.open() for _ in range(2)]
    for chat in chats:
        await say(chat, {"tokens": 5000, "interval_ms": 20})
        await reads(chat, 2)
    first, second = [str(await chat.locator(".turn").get_attribute("data-run")) for chat in chats]
    page = await opened.open("/runs")
    await page.get_by_label("Search runs").fill(first)
    await expect(page.locator(f"tr[data-run='{first}']")).to_have_count(1)
    await page.get_by_role("button", name="Abort all").click()
    await page.get_by_role("button", name="Abort 1 now?").click()
    await expect(chats[0].locator(".turn-notes")).to_contain_text("Stopped")
    await page.get_by_label("Search runs").fill(second)
    row = page.locator(f"tr[data-run='{second}']")
    await expect(row.locator(".badge")).to_have_text("Running")
    await row.get_by_role("button", name="Abort", exact=True).click()
    await row.get_by_role("button", name="Abort now?").click()


async def test_a_locked_gateway_asks_for_a_token(stack: Stack, browser: Browser):
    """Pasted, or in the address, from where it is taken at once; others' runs show to admins alone."""
    with GatewayThread(stack.server.url(0), stack.server.url(1), **SETTINGS) as locked:
        async with tabs(browser, locked.url) as opened:
            page = await opened.open()
            await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
            assert await barriers(page) == []
            await page.get_by_label("Token", exact=True).fill(token())
            await page.keyboard.press("Enter")
            await expect(page.locator("#connection")).to_have_text("Connected")
            await say(page, {"tokens": 30, "interval_ms": 5})
            await finished(page)
            assert await answer(page) == demo_text(30)
            opened.expect_broken_requests()
        async with tabs(browser, locked.url) as opened:
            page = await opened.open(f"/#token={token('bob')}")
            await expect(page.locator("#connection")).to_have_text("Connected")
            assert "token" not in page.url
            await expect(page.locator(".threads li")).to_have_count(0)
            await page.get_by_role("link", name="Operator").click()
            await page.get_by_role("button", name="Ended").click()
            await expect(page.locator("#empty")).to_have_text("Nothing ended yet.")
        async with tabs(browser, locked.url) as opened:
            runs = await opened.open(f"/runs#token={token('root', scope='admin')}")
            await runs.get_by_role("button", name="Ended").click()
            await expect(runs.locator("tbody tr")).to_contain_text(["ann"])
