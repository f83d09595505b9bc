"""The AI SDK's own client, as npm has it, against a live stack: what a user does, and what goes wrong meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.fakes.openai_server import Events, OpenAIServer, answer, call_chunk, chunk, text_chunks
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.servers import free_port
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # the first test may have to wait for npm
LONG = {"tokens": 100_000, "interval_ms": 5}
QUICK = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_ENGINES": "support.engines.engines",
    "PYTHONPATH": str(TESTS),
}


class Tab:
    """One chat in a browser's tab."""

    def __init__(self, program: Program, name: str, chat: str) -> None:
        self._program, self._name, self.chat = program, name, chat

    def does(self, action: str, **request: Any) -> None:
        self._program.do(action, **{"as": self._name}, **request)

    @property
    def state(self) -> dict[str, Any]:
        return self._program.do("state", **{"as": self._name})

    def until(self, status: str = "ready", *, text: str = "") -> dict[str, Any]:
        """Wait until it is in this status, and shows this text; returns its state."""

        def reached() -> dict[str, Any] | None:
            state = self.state
            return state if state["status"] == status and text in text_of(state) else None

        wait_until(reached, description=f"{self.chat} to be {status}, with {text!r}", timeout_s=60)
        return self.state


class Browser:
    """Opens chats of one gateway."""

    def __init__(self, program: Program, url: str) -> None:
        self.program, self.url = program, url
        self._opened = 0

    def open(self, chat: str, *, messages: Any = (), **mainstem: Any) -> Tab:
        self._opened += 1
        tab = Tab(self.program, f"{chat}.{self._opened}", chat)
        body = {"mainstem": mainstem}
        tab.does("open", id=chat, url=self.url, body=body, messages=list(messages))
        return tab

    def asks(self, chat: str, **demo: Any) -> Tab:
        """Open a chat and send a message that makes the demo engine do this."""
        tab = self.open(chat, engine="demo", input={"interval_ms": 0, **demo})
        tab.does("send", text="Hello")
        return tab


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The Node program, with the packages."""
    with Program("ai_sdk.mjs") as running:
        yield running


@pytest.fixture
def browser(program: Program, gateway: GatewayThread) -> Browser:
    return Browser(program, gateway.url)


def answer_of(state: dict[str, Any]) -> dict[str, Any]:
    """The assistant's last message; never two."""
    assert [message["role"] for message in state["messages"]][-2:] == ["user", "assistant"]
    return state["messages"][-1]


def text_of(state: dict[str, Any]) -> str:
    last = state["messages"][-1] if state["messages"] else {"role": "", "parts": []}
    parts = last["parts"] if last["role"] == "assistant" else []
    return "".join(part["text"] for part in parts if part["type"] == "text")


def run_of(gateway: GatewayThread, state: dict[str, Any]) -> dict[str, Any]:
    run_id = answer_of(state)["metadata"]["runId"]
    return httpx.get(f"{gateway.url}/v1/runs/{run_id}", trust_env=False).json()


def test_a_whole_conversation(browser: Browser, gateway: GatewayThread):
    """The stock transport needs nothing but the address: text, end, usage, the next message, a regeneration."""
    tab = browser.open("talk")
    tab.does("send", text="Grüße, 世界 out there")
    state = tab.until(text="there")
    assert text_of(state) == "Grüße, 世界 out there"
    assert [part["type"] for part in answer_of(state)["parts"]] == ["step-start", "text"]
    assert answer_of(state)["parts"][1]["state"] == "done"
    assert state["finishes"] == [
        {"isAbort": False, "isDisconnect": False, "isError": False, "finishReason": "stop"}
    ]
    first = run_of(gateway, state)
    assert (first["status"], answer_of(state)["id"]) == ("succeeded", first["run_id"])
    tab.does("send", text="And more")
    state = tab.until(text="And more")
    assert [message["role"] for message in state["messages"]] == ["user", "assistant"] * 2
    tab.does("regenerate")
    wait_until(lambda: len(tab.state["finishes"]) == 3, description="the regeneration", timeout_s=30)
    again = tab.until(text="And more")
    assert len(again["messages"]) == 4
    assert answer_of(again)["id"] != answer_of(state)["id"]


def test_a_reload_in_mid_stream_catches_up(browser: Browser):
    """Another tab, without any message, has the whole answer; so has a program that reads the stream alone."""
    first = browser.asks("reload", tokens=400, interval_ms=10)
    first.until("streaming", text="w20")
    first.does("stop")
    assert first.until("ready")["finishes"][0]["isAbort"]
    second = browser.open("reload")
    second.does("resume")
    second.until("streaming", text="w40")
    message = browser.program.do("read", id="reload", url=browser.url)
    assert "".join(part.get("text", "") for part in message["parts"]) == demo_text(400)
    assert text_of(second.until("ready", text="w399")) == demo_text(400)
    first.does("resume")
    assert text_of(first.until("ready", text="w399")) == demo_text(400)  # the run has ended since it left
    assert len(first.state["messages"]) == 2
    assert browser.program.do("read", id="reload", url=browser.url)["parts"] == message["parts"]
    assert browser.program.do("read", id="never", url=browser.url) is None


def test_a_second_look_repairs_what_a_tab_has(browser: Browser):
    """A tab that has part of the answer, and resumes, has one message with every word once."""
    tab = browser.asks("again", tokens=300, interval_ms=10)
    tab.until("streaming", text="w20")
    tab.does("stop")
    tab.does("resume")
    state = tab.until("ready", text="w299")
    assert text_of(state) == demo_text(300)
    assert len(state["messages"]) == 2


def test_stop(browser: Browser, gateway: GatewayThread):
    """The stop of the server ends the run; who follows sees a proper end, and what was said is kept."""
    tab = browser.open("stopped", engine="demo", input=LONG)
    tab.does("send", text="Hello")
    tab.until("streaming", text="w20")
    said = httpx.post(f"{gateway.url}/v1/ai-sdk/chat/stopped/stop", trust_env=False, timeout=30)
    state = tab.until("ready", text="w20")
    run = run_of(gateway, state)
    assert said.json() == {"stopped": [run["run_id"]]}
    assert (run["status"], run["reason"], run["text"]) == ("aborted", "user_abort", text_of(state))
    assert state["finishes"][-1]["finishReason"] == "other"


def test_a_new_message_after_the_clients_own_stop(browser: Browser, gateway: GatewayThread):
    """Frontends that only cut their connection still get the next answer: it replaces the one that runs."""
    tab = browser.open("cut", engine="demo", input=LONG)
    tab.does("send", text="Hello")
    tab.until("streaming", text="w20")
    tab.does("stop")
    first = run_of(gateway, tab.state)
    other = browser.open("cut", messages=tab.state["messages"])
    other.does("send", text="Something else")
    assert text_of(other.until("ready", text="Something else")) == "Something else"
    ended = httpx.get(f"{gateway.url}/v1/runs/{first['run_id']}", trust_env=False).json()
    assert (ended["status"], ended["reason"]) == ("aborted", "replaced")


def test_approve(browser: Browser, gateway: GatewayThread):
    """The call waits in the client; approved there, the run goes on in the same message."""
    tab = browser.asks("approve", tokens=6, approve_at=[2, 4])
    state = tab.until("ready", text="w1")
    assert answer_of(state)["parts"][-1]["state"] == "approval-requested"
    tab.does("decide", approved=True)
    state = tab.until("ready", text="w3")
    assert answer_of(state)["parts"][-1]["state"] == "approval-requested"
    tab.does("decide", approved=True)
    state = tab.until("ready", text="w5")
    assert (text_of(state), len(state["messages"])) == (demo_text(6), 2)
    calls = [part for part in answer_of(state)["parts"] if part["type"] == "tool-demo_tool"]
    assert [(call["state"], call["output"]) for call in calls] == [
        ("output-available", {"word": "w2"}),
        ("output-available", {"word": "w4"}),
    ]
    assert run_of(gateway, state)["text"] == demo_text(6)
    assert len(state["finishes"]) == 3
    assert "error" not in state["statuses"]


def test_reject_after_a_reload(browser: Browser):
    """A tab that was opened during the pause shows the request; what is rejected there is not done."""
    browser.asks("reject", tokens=4, approve_at=[2]).until("ready", text="w1")
    tab = browser.open("reject")
    tab.does("resume")
    tab.until("ready", text="w1")
    tab.does("decide", approved=False, reason="No.")
    state = tab.until("ready", text="w3")
    assert text_of(state) == "w0 w1 [rejected:2] w3"
    (call,) = [part for part in state["messages"][-1]["parts"] if part["type"] == "tool-demo_tool"]
    assert (call["state"], call["approval"]["approved"], call["approval"]["reason"]) == (
        "output-denied",
        False,
        "No.",
    )


def test_two_tabs_decide(browser: Browser):
    """The same decision twice is one; a differing one is refused, and the tab that sent it can look again."""
    first = browser.asks("tabs", tokens=4, approve_at=[2])
    first.until("ready", text="w1")
    second, third = browser.open("tabs"), browser.open("tabs")
    for tab in (second, third):
        tab.does("resume")
        tab.until("ready", text="w1")
    first.does("decide", approved=True)
    first.until("ready", text="w3")
    second.does("decide", approved=True)
    state = second.until("ready", text="w3")
    assert (text_of(state), len(state["messages"])) == (demo_text(4), 1)
    third.does("decide", approved=False)
    assert "decision_conflict" in third.until("error")["error"]


def test_a_question_is_answered_once(browser: Browser):
    """It calls a tool of the client, whose output is sent by the client; nothing is sent twice."""
    tab = browser.asks("question", tokens=4, ask_at=[2])
    tab.until("ready", text="w1")
    tab.does("answer", tool="ask_user", output="blue")
    state = tab.until("ready", text="w3")
    assert text_of(state) == "w0 w1 blue w2 w3"
    assert (state["calls"], len(state["finishes"])) == (["ask_user"], 2)


def test_everything_that_an_engine_says(browser: Browser):
    """Reasoning, streamed calls and their results, data that is replaced, title and usage: as parts and metadata."""
    tab = browser.open("rich", engine="rich")
    tab.does("send", text="Hello")
    state = tab.until("ready", text="One.")
    message = answer_of(state)
    assert [part["type"] for part in message["parts"]] == [
        *("step-start", "reasoning", "text", "tool-search", "data-progress", "tool-search", "text")
    ]
    _, reasoning, _, found, progress, failed, _ = message["parts"]
    assert (reasoning["text"], reasoning["state"]) == ("Let me look.", "done")
    assert (found["state"], found["input"], found["output"]) == (
        *("output-available", {"q": "one"}, {"found": 1}),
    )
    assert progress["data"] == {"id": "p", "done": 2}
    assert (failed["state"], failed["errorText"]) == ("output-error", "no")
    metadata = message["metadata"]
    assert (metadata["title"], metadata["usage"]) == (
        "Rich",
        {
            "inputTokens": 12,
            "outputTokens": 7,
            "totalTokens": 19,
            "reasoningTokens": 2,
            "cachedInputTokens": 4,
        },
    )
    assert (state["calls"], len(state["finishes"])) == ([], 1)


def test_what_is_said_meanwhile(browser: Browser, gateway: GatewayThread):
    """It shows where the engine read it, once, also over a pause."""
    tab = browser.open("steered", engine="steered")
    tab.does("send", text="Hello")
    run_id = answer_of(tab.until("streaming", text="Go on?"))["id"]
    said = httpx.post(f"{gateway.url}/v1/runs/{run_id}/input", json={"text": "left"}, trust_env=False)
    assert said.status_code == 202
    tab.until("ready", text="You said left.")
    tab.does("decide", approved=True)
    state = tab.until("ready", text="Done.")
    kinds = [part["type"] for part in answer_of(state)["parts"]]
    assert kinds == ["step-start", "text", "steering-message", "text", "tool-go", "text"]
    assert answer_of(state)["parts"][2]["parts"] == [{"type": "text", "text": "left"}]


def test_calls_of_the_clients_own_tools(browser: Browser):
    """A call that the run leaves open is the client's; its output starts a run that goes on in the same message."""
    tab = browser.open("own", engine="delegating")
    tab.does("send", text="Which colour?")
    state = tab.until("ready", text="Let me see.")
    assert (state["calls"], state["finishes"][-1]["finishReason"]) == (["pick"], "tool-calls")
    tab.does("answer", tool="pick", output="blue")
    state = tab.until("ready", text="It is blue.")
    assert (text_of(state), len(state["messages"])) == ("Let me see. It is blue.", 2)
    assert len(state["finishes"]) == 2


def test_a_failing_engine(browser: Browser, gateway: GatewayThread):
    """The client is in the state of error, with the reason, and keeps what was said."""
    tab = browser.asks("fails", tokens=9, fail_at=5)
    state = tab.until("error", text="w4")
    assert state["error"] == "DemoError: asked to fail before word 5"
    assert text_of(state) == demo_text(5)
    assert answer_of(state)["parts"][-1]["state"] == "done"
    assert run_of(gateway, state)["status"] == "failed"
    refused = browser.open("nowhere", engine="no_such_engine")
    refused.does("send", text="Hello")
    assert "unknown_engine" in refused.until("error")["error"]


def test_a_model_with_tools(live: Any, program: Program):
    """The openai engine gets the conversation: calls run in the worker, one is approved, and all are told next time."""
    chunks = [
        *text_chunks("I look. "),
        call_chunk(0, '{"city":"Bonn"}', call_id="c1", name="weather"),
        call_chunk(1, '{"amount":5,"to":"Ann"}', call_id="c2", name="transfer"),
        chunk(finish="tool_calls"),
    ]
    with OpenAIServer() as provider:
        model = {"MAINSTEM_OPENAI_BASE_URL": provider.url, "MAINSTEM_OPENAI_API_KEY": "x"}
        live.worker(
            **{**QUICK, **model, "MAINSTEM_OPENAI_MODEL": "m", "MAINSTEM_ENGINES": "support.engines.toolshed"}
        )
        provider.reply(Events(chunks=chunks), answer("Sun, ", "and sent."), answer("Bye."))
        with GatewayThread(live.store.url(0), live.broker.url(1), default_engine="openai") as gateway:
            tab = Browser(program, gateway.url).open("model", input={"use_tools": ["weather", "transfer"]})
            tab.does("send", text="Weather? And pay Ann.")
            state = tab.until("ready", text="I look.")
            assert [part["state"] for part in answer_of(state)["parts"] if "toolCallId" in part] == [
                *("output-available", "approval-requested"),
            ]
            tab.does("decide", approved=True)
            state = tab.until("ready", text="and sent.")
            assert text_of(state) == "I look. Sun, and sent."
            assert [part["output"] for part in answer_of(state)["parts"] if "toolCallId" in part] == [
                "sun in Bonn for 1",
                {"sent": 5, "to": "Ann", "key": answer_of(state)["parts"][3]["output"]["key"]},
            ]
            assert answer_of(state)["metadata"]["usage"]["totalTokens"] == 5
            tab.does("send", text="Thanks.")
            tab.until("ready", text="Bye.")
    told = provider.requests[-1].body["messages"]
    assert [(message["role"], message["content"]) for message in told if message["role"] != "tool"] == [
        ("user", "Weather? And pay Ann."),
        ("assistant", "I look. "),
        ("assistant", "Sun, and sent."),
        ("user", "Thanks."),
    ]
    assert [call["id"] for call in told[1]["tool_calls"]] == ["c1", "c2"]
    assert [message["tool_call_id"] for message in told[2:4]] == ["c1", "c2"]


def test_a_drained_gateway_is_an_error_and_not_an_end(stage: Any, program: Program):
    """A gateway that stops resets the stream; the client says so, and resumes at the next one without a hole."""
    port = free_port()
    addresses = (stage.store.url(0), stage.broker.url(1))
    with GatewayThread(*addresses, port=port) as first:
        tab = Browser(program, first.url).asks("drained", tokens=400, interval_ms=10)
        tab.until("streaming", text="w20")
    assert tab.until("error", text="w20")["finishes"][-1]["isError"]
    with GatewayThread(*addresses, port=port):
        tab.does("resume")
        state = tab.until("ready", text="w399")
    assert (text_of(state), len(state["messages"])) == (demo_text(400), 2)


def test_a_killed_worker(live: Any, program: Program):
    """The run begins again elsewhere in mid-stream: the step is taken back, and no word is there twice."""
    first = live.worker("first", **QUICK)
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        browser = Browser(program, gateway.url)
        wanted = {"tokens": 200, "interval_ms": 15}
        resumed = browser.open("lost", engine="demo", input=wanted, on_worker_lost="resume")
        failed = browser.open("failed", engine="demo", input=wanted)
        for tab in (resumed, failed):
            tab.does("send", text="Hello")
            tab.until("streaming", text="w20")
        live.worker("second", ready=False, **QUICK)
        first.sigkill()
        state = resumed.until("ready", text="w199")
        assert (text_of(state), len(state["messages"])) == (demo_text(200), 2)
        assert [part["type"] for part in answer_of(state)["parts"]] == ["step-start", "text"]
        state = failed.until("error", text="w20")
        assert "worker" in state["error"]
        assert demo_text(200).startswith(text_of(state))
