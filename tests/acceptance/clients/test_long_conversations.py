"""A conversation of ten turns, opened again by stock clients and the page: after its end, and from the archive alone.

Files, tools, an approval, a rejection, an edit and a regeneration. Whoever opens it has the same messages under
the same ids, and the next turn's provider request is valid and has all of it, as the wire says.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from playwright.async_api import FilePayload, Page

from mainstem_shared import archive
from mainstem_shared.operations import archive_upkeep
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store
from support.clients.browsers import barriers, chromium, tabs
from support.clients.npm_clients import Program
from support.fakes.strict_provider import StrictProvider, text_of
from support.paths import TESTS
from support.processes import topologies
from support.processes.dying_process import Messages
from support.processes.gateways import GatewayThread
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # the first test may have to wait for npm
BYTES = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = "data:image/png;base64," + base64.b64encode(BYTES + bytes(70_000)).decode()
NOTE: FilePayload = {"name": "note.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-"}
PHOTOS = ["data:image/png;base64," + base64.b64encode(BYTES).decode(), PICTURE, PICTURE]
INPUT = {"history": True, "use_tools": ["transfer"]}
"""Also for clients that send the whole conversation: nothing may be said twice."""
OVER = {"succeeded", "failed", "aborted"}


class Conversation:
    """The thread, and where everything is."""

    thread = "ten-turns"

    def __init__(self, url: str, provider: StrictProvider, settings: Settings) -> None:
        self.url, self.provider, self.settings = url, provider, settings
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def run(self, run_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/runs/{run_id}").raise_for_status().json()

    def turn(self, content: Any = None, *, decision: str | None = None, **fields: Any) -> str:
        """Say something, decide what is asked, and wait for the end."""
        said = [] if content is None else [{"role": "user", "content": content}]
        body = {"engine": "openai", "input": {**INPUT, "messages": said}, **fields}
        run_id = (
            self.http.post(f"/v1/threads/{self.thread}/runs", json=body).raise_for_status().json()["run_id"]
        )
        status = {"requires_action"} if decision else OVER
        wait_until(lambda: self.run(run_id)["status"] in status, description=f"{content!r}", timeout_s=60)
        if decision:
            action = self.run(run_id)["action"]
            decisions = [{"call_id": call["call_id"], "type": decision} for call in action["calls"]]
            given = {"action_id": action["action_id"], "decisions": decisions}
            self.http.post(f"/v1/runs/{run_id}/resume", json=given).raise_for_status()
            wait_until(lambda: self.run(run_id)["status"] in OVER, description="the end", timeout_s=60)
        assert self.run(run_id)["status"] == "succeeded", self.run(run_id)
        return run_id

    def get(self, path: str) -> list[dict[str, Any]]:
        return self.http.get(path).raise_for_status().json()["messages"]

    def messages(self) -> list[dict[str, Any]]:
        return self.get(f"/v1/threads/{self.thread}/messages?limit=200")

    def items(self) -> list[dict[str, Any]]:
        """What OpenAI's client lists of the conversation."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0) as client:
            listed = client.conversations.items.list(self.thread, order="asc", limit=100)
            return [item.model_dump() for item in listed]

    def loaded(self) -> dict[str, list[dict[str, Any]]]:
        """The conversation as each kind of client loads it."""
        return {
            "native": self.messages(),
            "ai-sdk": self.get(f"/v1/ai-sdk/chat/{self.thread}/messages"),
            "ag-ui": self.get(f"/v1/ag-ui/threads/{self.thread}/messages"),
            "responses": self.items(),
        }

    async def archive(self) -> None:
        """Move the conversation to the archive, and see that the store has nothing of it."""
        store = Store(endpoints.store_url(self.settings), archive=archive.connect(self.settings))
        try:
            operations = Operations(store=store, settings=self.settings, publisher=Messages())
            _ = [moved async for moved in archive_upkeep.backfill(operations)]
            assert [key async for key in store.client.scan_iter("ms:*:record")] == []
        finally:
            await store.close()

    def asked(self) -> list[tuple[str, str]]:
        """Who said what in the last request to the provider, but for tools' results; it was valid."""
        assert self.provider.faults == []
        said = self.provider.requests[-1]["messages"]
        return [(each["role"], text_of(each)) for each in said if each["role"] != "tool"]


@pytest.fixture(scope="module")
def talk(
    live_system: Any, tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path
) -> Iterator[Conversation]:
    """The stack, and ten turns on it."""
    directory = tmp_path_factory.mktemp("talk")
    with topologies.store(directory / "valkey") as server, StrictProvider() as provider:
        system = live_system(server, server, directory)
        kept = {
            "archive_url": f"sqlite:///{directory}/archive.db",
            "blob_url": f"file://{directory}/blobs",
            "blob_max_mb": 1,
            "archive_hot_s": 0,
            "compact_after_s": 3600,
            "default_engine": "openai",
            "openai_model": "m",
        }
        env = {f"MAINSTEM_{name.upper()}": str(value) for name, value in kept.items()}
        model = {
            "MAINSTEM_OPENAI_BASE_URL": provider.url,
            "MAINSTEM_OPENAI_API_KEY": "x",
            "MAINSTEM_ENGINES": "support.engines.toolshed",
            "PYTHONPATH": str(TESTS),
        }
        with system.stack:
            system.worker("talk", **env, **model)
            with GatewayThread(server.url(0), server.url(1), **kept) as gateway:
                settings = Settings(redis_url=server.url(0), broker_url=server.url(1), **kept)
                conversation = Conversation(gateway.url, provider, settings)
                with conversation.http:
                    ten_turns(conversation)
                    yield conversation


def ten_turns(talk: Conversation) -> None:
    """Ten messages of a user on the branch that is shown, and two more beside it."""
    talk.turn("Hello", message_id="first")
    image = {"type": "image_url", "image_url": {"url": PICTURE}}
    talk.turn([{"type": "text", "text": "Look at this"}, image])
    talk.turn("Please pay", decision="approve")
    talk.turn("Then pay again", decision="reject")
    before = talk.turn("think about it")
    talk.turn("a slip of the pen")
    edited = talk.turn("what I meant", parent=before)
    again = talk.turn(parent=f"{edited}.in")
    assert again != edited
    for number in range(7, 11):
        talk.turn(f"turn {number}")


def checked(talk: Conversation, loaded: dict[str, list[dict[str, Any]]]) -> None:
    """What every client must find, whenever it comes."""
    native = loaded["native"]
    assert [message["role"] for message in native] == ["user", "assistant"] * 10
    assert len({message["id"] for message in native}) == 20
    edit, regeneration = native[10], native[11]
    assert (len(edit["siblings"]), len(regeneration["siblings"])) == (2, 2)
    ids = [message["id"] for message in native]
    assert [message["id"] for message in loaded["ai-sdk"]] == ids
    for name in ("ai-sdk", "ag-ui"):
        said = [message["id"] for message in loaded[name] if message["role"] == "user"]
        assert said == ids[::2]
    texts = ["".join(p.get("text", "") for p in m["parts"] if p["type"] == "text") for m in native]
    shown = ["".join(p["text"] for p in m["parts"] if p["type"] == "text") for m in loaded["ai-sdk"]]
    assert shown == texts
    calls = [part["state"] for m in loaded["ai-sdk"] for part in m["parts"] if "toolCallId" in part]
    assert calls == ["output-available", "output-denied"]
    assert sum(m["role"] == "tool" for m in loaded["ag-ui"]) == 2
    assert sum(item["type"] == "function_call" for item in loaded["responses"]) == 2
    (file,) = [part for message in native for part in message["parts"] if part["type"] == "file"]
    assert talk.http.get(file["url"]).content == BYTES + bytes(70_000)


async def on_the_page(talk: Conversation) -> list[tuple[str | None, str]]:
    """What somebody sees who opens the thread in a new browser: ids and words, in order."""
    async with chromium() as browser, tabs(browser, talk.url) as opened:
        page = await opened.open(f"/#thread={talk.thread}")
        await page.locator(".turn-notes").nth(9).wait_for()
        await page.locator(".attachment img").wait_for()
        await page.get_by_text("2/2").nth(1).wait_for()
        return await page.evaluate(
            """[...document.querySelectorAll('.said, .turn')].map((node) => node.matches('.said')
            ? [node.dataset.message, node.querySelector('.bubble').textContent]
            : [node.dataset.run, [...node.querySelectorAll('[data-part=text]')].map((part) => part.textContent).join('')])"""
        )


def test_ten_turns_are_the_same_for_everybody_before_and_after_the_store_is_empty(talk: Conversation) -> None:
    """Four protocols and the page; the next turn of each has the whole conversation, exactly once."""
    before = talk.loaded()
    checked(talk, before)
    seen = asyncio.run(on_the_page(talk))
    assert sorted(str(shown[0]) for shown in seen) == sorted(message["id"] for message in before["native"])
    asyncio.run(talk.archive())
    after = talk.loaded()
    assert after == before
    assert asyncio.run(on_the_page(talk)) == seen
    with Program("ai_sdk.mjs") as program:
        program.do("open", **{"as": "a"}, id=talk.thread, url=talk.url, body={"mainstem": {"input": INPUT}},
                   messages=after["ai-sdk"])  # fmt: skip
        assert program.do("state", **{"as": "a"})["messages"] == after["ai-sdk"]
        program.do("send", **{"as": "a"}, text="by the AI SDK")
        next_turn(talk, "by the AI SDK")
        wait_until(
            lambda: program.do("state", **{"as": "a"})["status"] == "ready", description="it", timeout_s=60
        )
        shown = program.do("state", **{"as": "a"})["messages"]
        assert [m["id"] for m in shown] == [m["id"] for m in talk.messages()]
    with Program("ag_ui.mjs") as program:
        loaded = talk.get(f"/v1/ag-ui/threads/{talk.thread}/messages")
        program.do("open", **{"as": "b"}, url=talk.url, threadId=talk.thread, messages=loaded)
        assert program.do("state", **{"as": "b"})["messages"] == loaded
        program.do("say", **{"as": "b"}, id="u-ag-ui", text="by AG-UI")
        program.do("run", **{"as": "b"}, runId="r-ag-ui", mainstem={"input": INPUT})
        next_turn(talk, "by AG-UI")
        wait_until(lambda: program.do("state", **{"as": "b"})["ends"] == 1, description="it", timeout_s=60)
        assert talk.messages()[-2]["id"] == "u-ag-ui"
        assert program.do("state", **{"as": "b"})["messages"] == talk.get(
            f"/v1/ag-ui/threads/{talk.thread}/messages"
        )
    with openai.OpenAI(base_url=f"{talk.url}/v1", api_key="unused", max_retries=0) as client:
        client.responses.create(model="openai", input="by Responses", conversation=talk.thread)
    next_turn(talk, "by Responses")
    asyncio.run(by_the_page(talk))
    next_turn(talk, "by the page")
    assert len(talk.messages()) == 28


async def by_the_page(talk: Conversation) -> None:
    async with chromium() as browser, tabs(browser, talk.url) as opened:
        page = await opened.open(f"/#thread={talk.thread}")
        await page.locator(".turn-notes").nth(12).wait_for()
        field = page.get_by_label("Message", exact=True)
        await field.fill("by the page")
        await field.press("Enter")
        await page.locator(".turn-notes").nth(13).wait_for()


def next_turn(talk: Conversation, words: str) -> None:
    """Wait for a turn's request, and compare it with the thread: all that was said on it, once, in order."""

    def is_answered() -> bool:
        last = talk.messages()[-1]
        return last["status"] == "succeeded" and talk.asked()[-1] == ("user", words)

    wait_until(is_answered, description=words, timeout_s=60)
    users = [text for role, text in talk.asked() if role == "user"]
    said = ["".join(p.get("text", f"<{'image_url'}>") for p in m["parts"]) for m in talk.messages()[::2]]
    assert [text.replace(" <", "<") for text in users] == said
    request = talk.provider.requests[-1]["messages"]
    pictures = [part["image_url"]["url"] for each in request if isinstance(each["content"], list)
                for part in each["content"] if part["type"] == "image_url"]  # fmt: skip
    assert pictures == [PICTURE]
    assert sum(each["role"] == "tool" for each in request) == 2
    answers = "".join(text for role, text in talk.asked() if role == "assistant")
    shown = "".join(p["text"] for m in talk.messages()[1:-1:2] for p in m["parts"] if p["type"] == "text")
    assert answers == shown


# -- files on the page


def test_photos_are_picked_dropped_and_pasted_on_the_page(talk: Conversation) -> None:
    """The model gets each as it was chosen, whoever opens the thread later sees them; nothing of it is lost."""
    asyncio.run(photos(talk))


async def photos(talk: Conversation) -> None:
    async with chromium() as browser:
        async with tabs(browser, talk.url) as opened:
            page = await opened.open()
            await page.locator("#attach").wait_for()
            await choose(page)
            await page.get_by_label("Message", exact=True).press("Enter")
            await page.locator(".turn-notes").wait_for()
            assert await page.locator("#files .attachment").count() == 0
            assert pictures_of(talk.provider.requests[-1]) == PHOTOS
            await send_after_a_refusal(page)
            opened.expect_broken_requests()
            thread = page.url.split("#")[1]
        async with tabs(browser, talk.url) as opened:
            page = await opened.open(f"/#{thread}")
            shown = page.locator(".said .attachment img")
            await shown.nth(2).wait_for()
            assert await shown.evaluate_all("(all) => all.map((each) => each.src)") == PHOTOS
            await page.locator(".said").nth(1).get_by_text("note.pdf").wait_for()
    request = talk.provider.requests[-1]
    assert pictures_of(request) == PHOTOS
    assert request["messages"][-1]["content"][1]["file"]["filename"] == "note.pdf"
    assert talk.provider.faults == []


async def choose(page: Page) -> None:
    """Pick, drop and paste; an empty file is refused, and one that was chosen is removed again."""
    empty = {"name": "empty.png", "mimeType": "image/png", "buffer": b""}
    await page.locator("#file-picker").set_input_files(
        [{"name": "small.png", "mimeType": "image/png", "buffer": BYTES}, empty, NOTE]
    )
    await page.get_by_text("empty.png: there is nothing in it").wait_for()
    photo = {"name": "large.png", "type": "image/png", "base64": PICTURE.partition(",")[2]}
    for event, target in (("drop", "#stage"), ("paste", "#message")):
        await page.evaluate(
            """([event, target, { name, type, base64 }]) => {
                const transfer = new DataTransfer(), how = { bubbles: true, cancelable: true };
                const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type }));
                document.querySelector(target).dispatchEvent(event === "drop"
                    ? new DragEvent(event, { dataTransfer: transfer, ...how })
                    : new ClipboardEvent(event, { clipboardData: transfer, ...how }));
            }""",
            [event, target, photo],
        )
    await page.locator("#files .attachment").nth(3).wait_for()
    assert await barriers(page) == []
    await page.get_by_role("button", name="Remove note.pdf").click()
    assert await page.locator("#files .attachment").count() == 3


async def send_after_a_refusal(page: Page) -> None:
    """A file over the limit is refused by the setting's name; what was written stays, and goes without it."""
    large = {"name": "large.bin", "mimeType": "text/plain", "buffer": bytes(1_500_000)}
    await page.locator("#file-picker").set_input_files([NOTE, large])
    field = page.get_by_label("Message", exact=True)
    await field.fill("and this")
    await page.get_by_role("button", name="Remove large.bin").wait_for()
    await field.press("Enter")
    await page.locator("#notice").get_by_text("MAINSTEM_BLOB_MAX_MB").wait_for()
    await page.get_by_role("button", name="Remove large.bin").click()
    assert await field.input_value() == "and this"
    await field.press("Enter")
    await page.locator(".turn-notes").nth(1).wait_for()


def pictures_of(request: dict[str, Any]) -> list[str]:
    contents = [each["content"] for each in request["messages"] if isinstance(each["content"], list)]
    return [part["image_url"]["url"] for content in contents for part in content if "image_url" in part]
