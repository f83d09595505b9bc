"""AG-UI's client of two versions against a live stack: 1.0, and the one that CopilotKit and assistant-ui carry."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from acceptance.clients.test_ag_ui_clients import Agent, abort_run, answer, last, our_run
from support.clients.cells import Showing
from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.processes.breaking_proxy import BreakingProxy
from support.processes.gateways import GatewayThread

NAMES = {1: "@ag-ui/client 1", 0: "@ag-ui/client 0.0"}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ag_ui() -> Iterator[Program]:
    """The program with AG-UI's clients."""
    with Program("ag_ui.mjs") as running:
        yield running


class Page(Agent):
    """A page of one version; an older one names no version of the protocol."""

    def __init__(
        self, program: Program, url: str, version: int, thread: str = "", messages: Any = ()
    ) -> None:
        self._version = version
        super().__init__(program, url, thread or f"ag-versions{next(_numbers)}", messages)

    def _do(self, action: str, **request: Any) -> Any:
        return super()._do(action, **request, **({"version": self._version} if action == "open" else {}))

    def keep(self, count: int) -> None:
        """Forget the messages after the first `count`."""
        self._do("keep", count=count)

    def give(self, call_id: str, content: str) -> None:
        """Answer a call of the page's own."""
        self._do("answer", id=f"t{next(_numbers)}", toolCallId=call_id, content=content)


class Pages:
    """Opens pages of one version."""

    def __init__(self, program: Program, url: str, version: int) -> None:
        self.program, self.url, self.version = program, url, version

    @property
    def name(self) -> str:
        return NAMES[self.version]

    def open(self, thread: str = "", *, url: str = "") -> Page:
        return Page(self.program, url or self.url, self.version, thread)

    def interrupts(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        return last(state)["outcome"]["interrupts"]


@pytest.fixture(params=NAMES, ids=["1", "0"])
def pages(request: pytest.FixtureRequest, ag_ui: Program, gateway: GatewayThread) -> Pages:
    return Pages(ag_ui, gateway.url, request.param)


def said(state: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(each["role"], each.get("content")) for each in state["messages"]]


def test_several_turns_a_regeneration_and_an_edit(pages: Pages, shows: Showing):
    """Each answer stands once; what is said instead replaces what came after."""
    page = pages.open()
    for number, text in enumerate(("One", "Two")):
        page.say(text)
        state = page.run(f"r{number}", engine="echo_history").ends()
    assert said(state)[-1] == ("assistant", "user:One|assistant:user:One|user:Two")
    page.keep(3)
    state = page.run("again", engine="echo_history").ends()
    assert said(state)[3:] == [("assistant", "user:One|assistant:user:One|user:Two")]
    page.keep(2)
    page.say("Three")
    state = page.run("edited", engine="echo_history").ends()
    assert said(state)[2:] == [
        ("user", "Three"),
        ("assistant", "user:One|assistant:user:One|user:Three"),
    ]
    assert state["failure"] is None
    shows(pages.name, "several turns", "regenerate", "edit a message")


def test_cuts_reloads_and_a_second_tab(pages: Pages, gateway: GatewayThread, shows: Showing):
    """Wherever the connection broke, and whoever else looks: every word once, during the run and after it."""
    with BreakingProxy(gateway.port) as line:
        line.cut_after(1200, 1, 1777)
        page = pages.open(url=line.url).demo("r1", tokens=100_000, interval_ms=5)
        for _ in range(3):
            assert page.ends()["failure"]
            page.run("r1")
        other = pages.open(page.thread).run("r1")
        for each in (page, other):
            each.shows("w60")
        abort_run(gateway, page.state)
        for each in (page, other):
            state = each.ends()
            assert state["failure"] is None
            assert [role for role, _ in said(state)] == ["assistant"]
        whole = our_run(gateway, state)["text"]
        assert (page.text, other.text, line.cuts) == (whole, whole, 3)
    late = pages.open(page.thread)
    state = late.run("r1").ends()
    assert (state["failure"], late.text) == (None, whole)
    shows(pages.name, *("cut, then continued", "reload during the run", "reload after the run", "two tabs"))


def test_stop_then_continue(pages: Pages, gateway: GatewayThread, shows: Showing):
    """A stop is a proper end; the next turn works."""
    page = pages.open().demo("r1", tokens=100_000, interval_ms=5)
    page.shows("w20")
    abort_run(gateway, page.state)
    state = page.ends()
    assert (state["failure"], last(state)["type"]) == (None, "RUN_FINISHED")
    run = our_run(gateway, state)
    assert (run["status"], run["text"]) == ("aborted", page.text)
    page.say("Go on")
    state = page.run("r2").ends()
    assert (state["failure"], said(state)[-1]) == (None, ("assistant", "Go on"))
    shows(pages.name, "stop, then go on")


def test_a_call_of_the_pages_own(pages: Pages, shows: Showing):
    """The run ends with the call open; its result starts the next."""
    page = pages.open()
    page.say("Which colour?")
    state = page.run("r1", engine="delegating").ends()
    (call,) = state["messages"][-1]["toolCalls"]
    assert (state["failure"], call["function"]["name"]) == (None, "pick")
    page.give(call["id"], "blue")
    state = page.run("r2", engine="delegating").ends()
    assert (state["failure"], said(state)[-1]) == (None, ("assistant", "It is blue."))
    shows(pages.name, "own tool")


def test_decisions(pages: Pages, shows: Showing):
    """Approved, edited and rejected, one after the other."""
    page = pages.open()
    state = page.demo("r0", tokens=8, approve_at=[2, 4, 6]).ends()
    for number, payload in enumerate(
        ({"approved": True}, {"approved": True, "editedArgs": {"at": 77}}, {"approved": False})
    ):
        (asked,) = pages.interrupts(state)
        state = page.run(f"r{number + 1}", resume=[answer(asked, payload)]).ends()
        assert state["failure"] is None
    assert page.text == "w0 w1 w2 w3 w77 w5 [rejected:6] w7"
    shows(pages.name, "approve", "approve an edited call", "reject")


def test_errors(pages: Pages, shows: Showing):
    """RUN_ERROR with the reason, and what was said stays; what cannot be started is refused before."""
    page = pages.open()
    state = page.demo("r1", tokens=9, fail_at=5).ends()
    assert (last(state)["type"], last(state)["code"]) == ("RUN_ERROR", "engine_error")
    assert page.text == demo_text(5)
    assert "unknown_engine" in page.run("r2", engine="no_such_engine").ends()["failure"]
    shows(pages.name, "error before the stream", "error in the stream")


def test_a_click_that_counts_twice(pages: Pages, gateway: GatewayThread, shows: Showing):
    """Both posts are one run, and the page has its answer once."""
    page = pages.open()
    page.say("Hello")
    pages.program.do("double", on=True)
    try:
        state = page.demo("r1", tokens=30, interval_ms=5).ends()
    finally:
        pages.program.do("double", on=False)
    assert (state["failure"], page.text) == (None, demo_text(30))
    assert len(_runs(gateway, page.thread)) == 1
    shows(pages.name, "retry is idempotent")


def _runs(gateway: GatewayThread, thread: str) -> list[dict[str, Any]]:
    return httpx.get(f"{gateway.url}/v1/threads/{thread}/runs", trust_env=False).json()["runs"]


def test_an_agents_double_click(gateway: GatewayThread):
    """Two AG-UI runs of the same messages, while the first is being answered, are one of ours."""
    body = {
        "threadId": "ag-twice",
        "messages": [{"id": "u1", "role": "user", "content": "Hello"}],
        "forwardedProps": {"mainstem": {"engine": "demo", "input": {"tokens": 60, "interval_ms": 10}}},
    }
    with ThreadPoolExecutor(2) as pool:
        url = f"{gateway.url}/v1/ag-ui"
        replies = list(
            pool.map(
                lambda name: httpx.post(url, json={**body, "runId": name}, trust_env=False, timeout=60), "ab"
            )
        )
    assert [reply.text.count("RUN_FINISHED") for reply in replies] == [1, 1]
    assert len(_runs(gateway, "ag-twice")) == 1


def test_what_is_shown_beside_text_is_there_again(pages: Pages, gateway: GatewayThread):
    """A page that loads the thread has what the one that followed has; the next turn is not told of it."""
    page = pages.open()
    page.say("Show")
    state = page.run("r1", engine="showing").ends()
    shown = state["messages"]
    kinds = ["data", "annotation", "source", "file", "output"]
    assert [each.get("activityType", "") for each in shown if each["role"] == "activity"] == [
        f"mainstem.{kind}" for kind in kinds
    ]
    assert shown[1]["content"]["value"] == {"is": "warm"}
    path = f"{gateway.url}/v1/ag-ui/threads/{page.thread}/messages"
    loaded = httpx.get(path, trust_env=False).json()["messages"]
    assert loaded == shown
    other = Page(pages.program, gateway.url, pages.version, page.thread, loaded)
    other.say("Two")
    state = other.run("r2", engine="echo_history").ends()
    assert (state["failure"], said(state)[-1]) == (None, ("assistant", "user:Show|assistant:Here.|user:Two"))
    assert state["messages"][:-2] == shown
