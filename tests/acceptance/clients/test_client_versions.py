"""Clients of several versions against a live stack: each is told what it can take, at the address it knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from acceptance.clients.test_ag_ui_clients import Agent, abort_run, last, our_run
from acceptance.clients.test_ai_sdk_clients import Tab, answer_of, run_of, text_of
from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
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


@pytest.fixture(scope="module")
def ag_ui() -> Iterator[Program]:
    """The program with AG-UI's clients."""
    with Program("ag_ui.mjs") as running:
        yield running


class Site:
    """Opens chats of one version, at one address."""

    def __init__(self, program: Program, url: str, version: int, address: str) -> None:
        self.version, self.address = version, address
        self._program, self._url = program, url

    def open(self, chat: str = "", *, messages: Any = (), **mainstem: Any) -> Tab:
        chat = chat or f"versions{next(_numbers)}"
        tab = Tab(self._program, f"{chat}.{next(_numbers)}", chat)
        body = {"mainstem": mainstem}
        about = {"version": self.version, "address": self.address, "messages": list(messages)}
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


def test_several_turns_and_a_regeneration(site: Site):
    """Every version has each answer once."""
    tab = site.open()
    tab.does("send", text="One")
    tab.until(text="One")
    tab.does("send", text="Two")
    state = tab.until(text="Two")
    tab.does("regenerate")
    wait_until(lambda: len(tab.state["finishes"]) == 3, description="the regeneration", timeout_s=30)
    state = tab.until(text="Two")
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"] * 2


def test_stop_then_continue(site: Site, gateway: GatewayThread):
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


def test_a_call_of_the_clients_own(site: Site):
    """Its output starts a run that goes on in the same message."""
    tab = site.open(engine="delegating")
    tab.does("send", text="Which colour?")
    tab.until("ready", text="Let me see.")
    tab.does("answer", tool="pick", output="blue")
    assert text_of(tab.until("ready", text="It is blue.")) == "Let me see. It is blue."


@pytest.mark.parametrize("approved", [True, False])
def test_a_decision(site: Site, *, approved: bool):
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


class OldAgent(Agent):
    """A page with the client that CopilotKit and assistant-ui carry: it names no version of the protocol."""

    def _do(self, action: str, **request: Any) -> Any:
        return super()._do(action, **request, **({"version": 0} if action == "open" else {}))


def test_an_older_ag_ui_client(ag_ui: Program, gateway: GatewayThread):
    """Text, a stop, a frontend's tool and an approval, none of which it refuses."""
    page = OldAgent(ag_ui, gateway.url, "old")
    page.say("Hello")
    state = page.run("r1").ends()
    assert (page.text, state["failure"]) == ("Hello", None)
    page = OldAgent(ag_ui, gateway.url, "old-stop").demo("r1", tokens=100_000, interval_ms=5)
    page.shows("w20")
    abort_run(gateway, page.state)
    state = page.ends()
    assert (state["failure"], last(state)["type"]) == (None, "RUN_FINISHED")
    assert our_run(gateway, state)["status"] == "aborted"
    page = OldAgent(ag_ui, gateway.url, "old-tool")
    page.say("Which colour?")
    state = page.run("r1", engine="delegating").ends()
    (call,) = state["messages"][-1]["toolCalls"]
    assert (state["failure"], call["function"]["name"]) == (None, "pick")
    page = OldAgent(ag_ui, gateway.url, "old-approval")
    state = page.demo("r1", tokens=4, approve_at=[2]).ends()
    (asked,) = last(state)["outcome"]["interrupts"]
    resume = [{"interruptId": asked["id"], "status": "resolved", "payload": {"approved": True}}]
    state = page.run("r2", resume=resume).ends()
    assert (state["failure"], page.text) == (None, demo_text(4))


def test_an_agents_double_click(gateway: GatewayThread):
    """Two AG-UI runs of the same messages, while the first is being answered, are one of ours."""
    body = {
        "threadId": "ag-twice",
        "messages": [{"id": "u1", "role": "user", "content": "Hello"}],
        "forwardedProps": {"mainstem": {"engine": "demo", "input": {"tokens": 60, "interval_ms": 10}}},
    }
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        url = f"{gateway.url}/v1/ag-ui"
        replies = list(
            pool.map(
                lambda name: httpx.post(url, json={**body, "runId": name}, trust_env=False, timeout=60), "ab"
            )
        )
    assert [reply.text.count("RUN_FINISHED") for reply in replies] == [1, 1]
    assert len(_runs(gateway, "ag-twice")) == 1
    assert answer_of is not None
