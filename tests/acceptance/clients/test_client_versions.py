"""The AI SDK of three versions against a live stack: each is told what it can take, at the address it knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from acceptance.clients.test_ai_sdk_clients import Tab, run_of, text_of
from support.clients.cells import Showing
from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.processes.breaking_proxy import BreakingProxy
from support.processes.gateways import GatewayThread
from support.waiting import wait_until

PLAIN = "/v1/ai-sdk/chat"
SDKS = [(version, address) for version in (5, 6, 7) for address in (PLAIN, f"/v1/ai-sdk/v{version}/chat")]
SDK_IDS = [f"ai{version}-{'plain' if address == PLAIN else 'named'}" for version, address in SDKS]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def sdk() -> Iterator[Program]:
    """The program with the AI SDK in all versions."""
    with Program("ai_sdk.mjs") as running:
        yield running


class Site:
    """Opens chats of one version, at one address."""

    def __init__(self, program: Program, url: str, version: int, address: str) -> None:
        self.version, self.address = version, address
        self._program, self._url = program, url

    def over(self, url: str) -> Site:
        """The same, at another gateway."""
        return Site(self._program, url, self.version, self.address)

    def shows(self, shows: Showing, *scenarios: str) -> None:
        """Say what this version did at its own address; what is served at the plain one is a part of that."""
        if self.address != PLAIN:
            shows(f"ai {self.version}", *scenarios)

    def open(self, chat: str = "", *, messages: Any = (), doubled: bool = False, **mainstem: Any) -> Tab:
        chat = chat or f"versions{next(_numbers)}"
        tab = Tab(self._program, f"{chat}.{next(_numbers)}", chat)
        body = {"mainstem": mainstem}
        about = {"version": self.version, "address": self.address, "messages": list(messages)}
        about["doubled"] = doubled
        tab.does("open", id=chat, url=self._url, body=body, **about)
        return tab

    def asks(self, **demo: Any) -> Tab:
        tab = self.open(engine="demo", input={"interval_ms": 0, **demo})
        tab.does("send", text="Hello")
        return tab


@pytest.fixture(params=SDKS, ids=SDK_IDS)
def site(request: pytest.FixtureRequest, sdk: Program, gateway: GatewayThread) -> Site:
    version, address = request.param
    return Site(sdk, gateway.url, version, address)


def test_several_turns_a_regeneration_and_an_edit(site: Site, shows: Showing):
    """Every version has each answer once; an edited message replaces all that came after it."""
    tab = site.open()
    tab.does("send", text="One")
    tab.until(text="One")
    tab.does("send", text="Two")
    state = tab.until(text="Two")
    tab.does("regenerate")
    wait_until(lambda: len(tab.state["finishes"]) == 3, description="the regeneration", timeout_s=30)
    state = tab.until(text="Two")
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"] * 2
    tab.does("send", text="Three", messageId=state["messages"][0]["id"])
    state = tab.until(text="Three")
    assert (len(state["messages"]), text_of(state)) == (2, "Three")
    site.shows(shows, "several turns", "regenerate", "edit a message")


def test_stop_then_continue(site: Site, gateway: GatewayThread, shows: Showing):
    """A stop is a proper end to every version, after which nothing is sent by itself; the next turn works."""
    tab = site.asks(tokens=100_000, interval_ms=5)
    tab.until("streaming", text="w20")
    httpx.post(f"{gateway.url}{site.address}/{tab.chat}/stop", trust_env=False, timeout=30)
    state = tab.until("ready", text="w20")
    run = run_of(gateway, state)
    assert (run["reason"], run["text"]) == ("user_abort", text_of(state))
    assert (len(state["finishes"]), state.get("error")) == (1, None)
    other = site.open(tab.chat, messages=state["messages"])
    other.does("send", text="Go on")
    assert len(other.until("ready", text="Go on")["messages"]) == 4
    site.shows(shows, "stop, then go on")


def test_a_call_of_the_clients_own(site: Site, shows: Showing):
    """Its output starts a run that goes on in the same message."""
    tab = site.open(engine="delegating")
    tab.does("send", text="Which colour?")
    tab.until("ready", text="Let me see.")
    tab.does("answer", tool="pick", output="blue")
    assert text_of(tab.until("ready", text="It is blue.")) == "Let me see. It is blue."
    site.shows(shows, "own tool")


@pytest.mark.parametrize("approved", [True, False])
def test_a_decision(site: Site, shows: Showing, *, approved: bool):
    """Versions 6 and 7 have approvals; 5, at its own address, a question in their place."""
    if site.version == 5 and site.address == PLAIN:
        tab = site.asks(tokens=5, approve_at=[2])
        assert "approval" in tab.until("error", text="w1")["error"]
        return
    tab = site.asks(tokens=5, approve_at=[2])
    tab.until("ready", text="w1")
    if site.version == 5:
        tab.does("answer", tool="ask_user", output="approve" if approved else "reject")
    else:
        tab.does("decide", approved=approved)
    state = tab.until("ready", text="w4")
    assert text_of(state) == (demo_text(5) if approved else "w0 w1 [rejected:2] w3 w4")
    assert len(state["finishes"]) == 2
    site.shows(shows, "approve" if approved else "reject")


@pytest.mark.parametrize("version", [5, 6, 7])
def test_cuts_reloads_and_a_second_tab(sdk: Program, gateway: GatewayThread, shows: Showing, version: int):
    """Wherever the connection broke, and whoever else looks: every word once, during the run and after it."""
    site = Site(sdk, gateway.url, version, f"/v1/ai-sdk/v{version}/chat")
    with BreakingProxy(gateway.port) as line:
        line.cut_after(1, 900, 1333)
        tab = site.over(line.url).asks(tokens=100_000, interval_ms=5)
        for count in (1, 2, 3):
            wait_until(
                lambda n=count: tab.state["statuses"].count("error") == n,
                description=f"cut {count} to show",
                timeout_s=60,
            )
            tab.does("resume")
        other = site.open(tab.chat)
        other.does("resume")
        for each in (tab, other):
            each.until("streaming", text="w60")
        httpx.post(f"{gateway.url}{site.address}/{tab.chat}/stop", trust_env=False, timeout=30)
        whole = run_of(gateway, tab.until("ready", text="w60"))["text"]
        other.until("ready", text="w60")
        assert (text_of(tab.state), text_of(other.state)) == (whole, whole)
        assert line.cuts == 3
    assert [message["role"] for message in tab.state["messages"]] == ["user", "assistant"]
    loaded = httpx.get(f"{gateway.url}{site.address}/{tab.chat}/messages", trust_env=False).json()["messages"]
    late = site.open(tab.chat, messages=loaded)
    late.does("resume")
    state = late.until("ready", text="w60")
    assert (text_of(state), len(state["messages"])) == (whole, 2)
    site.shows(shows, "cut, then continued", "reload during the run", "reload after the run", "two tabs")


def test_errors(site: Site, shows: Showing):
    """The client is in the state of error, with the reason; what was said stays."""
    tab = site.asks(tokens=9, fail_at=5)
    state = tab.until("error", text="w4")
    assert (state["error"], text_of(state)) == ("DemoError: asked to fail before word 5", demo_text(5))
    tab = site.open(engine="no_such_engine")
    tab.does("send", text="Hello")
    assert "unknown_engine" in tab.until("error")["error"]
    site.shows(shows, "error before the stream", "error in the stream")


def test_a_click_that_counts_twice(site: Site, gateway: GatewayThread, shows: Showing):
    """Both posts are one run, and the page has its answer once."""
    tab = site.open(doubled=True, engine="demo", input={"tokens": 30, "interval_ms": 5})
    tab.does("send", text="Hello")
    assert text_of(tab.until(text="w29")) == demo_text(30)
    assert len(_runs(gateway, tab.chat)) == 1
    site.shows(shows, "retry is idempotent")


def test_a_tab_that_was_away_while_the_run_ended(sdk: Program, gateway: GatewayThread):
    """It asks again, and has the whole answer once; without any messages it has the last answer."""
    site = Site(sdk, gateway.url, 7, PLAIN)
    tab = site.asks(tokens=400, interval_ms=5)
    tab.until("streaming", text="w20")
    tab.does("stop")
    tab.until("ready", text="w20")
    run_id = tab.state["messages"][-1]["id"]
    ended = f"{gateway.url}/v1/runs/{run_id}"
    wait_until(
        lambda: httpx.get(ended, trust_env=False).json()["status"] == "succeeded",
        description="the run to end",
        timeout_s=30,
    )
    assert text_of(tab.state) != demo_text(400)
    tab.does("resume")
    state = tab.until("ready", text="w399")
    assert (text_of(state), len(state["messages"])) == (demo_text(400), 2)
    late = site.open(tab.chat)
    late.does("resume")
    assert text_of(late.until("ready", text="w399")) == demo_text(400)


def test_a_double_click_is_one_message(gateway: GatewayThread):
    """Two posts of one message at once are one run; of two messages, each is in the thread."""

    def body(chat: str, message_id: str, text: str) -> dict[str, Any]:
        said = {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}
        wanted = {"engine": "demo", "input": {"tokens": 30, "interval_ms": 10}}
        return {"id": chat, "messages": [said], "trigger": "submit-message", "mainstem": wanted}

    replies = _together(gateway, [body("twice", "u1", "Hello")] * 4)
    assert {_text(reply) for reply in replies} == {demo_text(30)}
    assert len(_runs(gateway, "twice")) == 1
    again = _together(gateway, [body("twice", "u1", "Hello")])
    assert (_text(again[0]), len(_runs(gateway, "twice"))) == (demo_text(30), 1)
    _together(gateway, [body("two", "u1", "Hello"), body("two", "u2", "There")])
    assert {run["status"] for run in _runs(gateway, "two")} <= {"succeeded", "aborted"}
    assert len(_runs(gateway, "two")) == 2


def _together(gateway: GatewayThread, bodies: list[Any]) -> list[httpx.Response]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(
            pool.map(
                lambda body: httpx.post(f"{gateway.url}{PLAIN}", json=body, trust_env=False, timeout=60),
                bodies,
            )
        )


def _text(reply: httpx.Response) -> str:
    import json

    lines = [line.removeprefix("data: ") for line in reply.text.split("\n") if line.startswith("data: {")]
    return "".join(
        chunk.get("delta", "") for chunk in map(json.loads, lines) if chunk["type"] == "text-delta"
    )


def _runs(gateway: GatewayThread, thread: str) -> list[dict[str, Any]]:
    return httpx.get(f"{gateway.url}/v1/threads/{thread}/runs", trust_env=False).json()["runs"]


def test_one_message_continues_the_threads_conversation(gateway: GatewayThread):
    """`{id, message}` needs no messages before it: the engine gets them from the thread."""
    for number, text in enumerate(("Which colour?", "And now?")):
        said = {"id": f"m{number}", "role": "user", "parts": [{"type": "text", "text": text}]}
        body = {"id": "lean", "message": said, "mainstem": {"engine": "echo_history"}}
        reply = httpx.post(f"{gateway.url}{PLAIN}", json=body, trust_env=False, timeout=60)
    assert _text(reply) == "user:Which colour?|assistant:user:Which colour?|user:And now?"
