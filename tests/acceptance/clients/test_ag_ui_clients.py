"""AG-UI's own client, as npm has it, against a live stack: what a user does, and what goes wrong meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.servers import free_port
from support.waiting import wait_until

QUICK = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_ENGINES": "support.engines.engines",
    "PYTHONPATH": str(TESTS),
}
_numbers = itertools.count(1)


class Agent:
    """One HttpAgent: a page that shows a thread."""

    def __init__(self, program: Program, url: str, thread: str, messages: Any = ()) -> None:
        self._program, self.thread, self._name = program, thread, f"agent{next(_numbers)}"
        self._do("open", url=url, threadId=thread, messages=list(messages))
        self._runs = 0

    def _do(self, action: str, **request: Any) -> Any:
        return self._program.do(action, **{"as": self._name}, **request)

    @property
    def state(self) -> dict[str, Any]:
        return self._do("state")

    @property
    def text(self) -> str:
        """What the assistant said so far."""
        said = [each for each in self.state["messages"] if each["role"] == "assistant"]
        return "".join(each.get("content") or "" for each in said)

    def say(self, text: str) -> None:
        self._do("say", id=f"u{next(_numbers)}", text=text)

    def run(self, run_id: str, *, resume: Any = None, tools: Any = None, **mainstem: Any) -> Agent:
        """Begin a run; `shows` and `ends` wait for what comes of it."""
        self._runs += 1
        extra = {"resume": resume} if resume is not None else {}
        extra |= {"tools": tools} if tools is not None else {}
        self._do("run", runId=run_id, mainstem=mainstem or None, **extra)
        return self

    def demo(self, run_id: str, **wanted: Any) -> Agent:
        return self.run(run_id, engine="demo", input={"interval_ms": 0, **wanted})

    def shows(self, text: str) -> None:
        wait_until(lambda: text in self.text, description=f"the page to show {text!r}", timeout_s=60)

    def ends(self) -> dict[str, Any]:
        """Wait until the client's promise is settled; returns its state."""
        wait_until(
            lambda: self.state["ends"] == self._runs, description="the client to be done", timeout_s=60
        )
        state = self.state
        check_events(state["events"])
        return state

    def abort(self) -> None:
        self._do("abort")


def check_events(events: list[dict[str, Any]]) -> None:
    """The protocol's frame: one beginning, at most one end, and no null anywhere in the open."""
    types = [event["type"] for event in events]
    assert types.count("RUN_STARTED") <= 1
    assert sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in types) <= 1
    assert not [
        event for event in events for name, value in event.items() if value is None and name != "value"
    ]


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The Node program, with the package."""
    with Program("ag_ui.mjs") as running:
        yield running


def last(state: dict[str, Any]) -> dict[str, Any]:
    return state["events"][-1]


def our_run(gateway: GatewayThread, state: dict[str, Any]) -> dict[str, Any]:
    run_id = state["events"][0]["metadata"]["mainstem"]["run_id"]
    return httpx.get(f"{gateway.url}/v1/runs/{run_id}", trust_env=False).json()


def abort_run(gateway: GatewayThread, state: dict[str, Any]) -> None:
    run_id = state["events"][0]["metadata"]["mainstem"]["run_id"]
    httpx.post(f"{gateway.url}/v1/runs/{run_id}/abort?wait=20", trust_env=False, timeout=30)


def test_a_whole_conversation(program: Program, gateway: GatewayThread):
    """Two turns; the client needs nothing but the address."""
    page = Agent(program, gateway.url, "talk")
    page.say("Grüße, 世界 out there")
    state = page.run("r1").ends()
    assert [each["role"] for each in state["messages"]] == ["user", "assistant"]
    assert (page.text, state["failure"]) == ("Grüße, 世界 out there", None)
    assert last(state)["outcome"] == {"type": "success"}
    assert our_run(gateway, state)["status"] == "succeeded"
    page.say("And more")
    state = page.run("r2").ends()
    assert [each.get("content") for each in state["messages"]][2:] == ["And more", "And more"]


def test_reload_in_mid_stream(program: Program, gateway: GatewayThread):
    """A page without any messages attaches by the run's id, and has every word once; so has the one that left."""
    first = Agent(program, gateway.url, "reload")
    first.say("Hello")
    first.demo("r1", tokens=300, interval_ms=10).shows("w20")
    first.abort()
    first.ends()
    seen = first.text
    second = Agent(program, gateway.url, "reload").run("r1")
    second.shows("w60")
    types = [event["type"] for event in second.state["events"]]
    assert types[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    again = first.run("r1").ends()
    state = second.ends()
    assert second.text == first.text == demo_text(300)
    assert demo_text(300).startswith(seen)
    assert [each["role"] for each in state["messages"]] == ["assistant"]
    assert [each["role"] for each in again["messages"]] == ["user", "assistant"]
    finished = Agent(program, gateway.url, "reload").run("r1").ends()
    assert [event["type"] for event in finished["events"]] == [
        "RUN_STARTED",
        "MESSAGES_SNAPSHOT",
        "RUN_FINISHED",
    ]


def test_cancelled(program: Program, gateway: GatewayThread):
    """Whoever follows a run that is aborted gets that outcome, and keeps what was said."""
    page = Agent(program, gateway.url, "cancel").demo("r1", tokens=100_000, interval_ms=5)
    page.shows("w20")
    abort_run(gateway, page.state)
    state = page.ends()
    assert last(state)["outcome"] == {"type": "cancelled"}
    run = our_run(gateway, state)
    assert (run["status"], run["text"]) == ("aborted", page.text)


def test_approve_edit_and_reject(program: Program, gateway: GatewayThread):
    """Each pause is an interrupt; the client's `resume` decides it, and the conversation stays whole."""
    page = Agent(program, gateway.url, "approve")
    state = page.demo("r1", tokens=8, approve_at=[2, 4, 6]).ends()
    (asked,) = state["pendingInterrupts"]
    (call,) = state["messages"][-1]["toolCalls"]
    assert (asked["reason"], asked["toolCallId"]) == ("tool_call", call["id"])
    assert set(asked["responseSchema"]["properties"]) == {"approved", "reason", "editedArgs", "response"}
    state = page.run("r2", resume=[answer(asked, {"approved": True})]).ends()
    assert last(state)["outcome"]["type"] == "interrupt"
    types = [event["type"] for event in state["events"]]
    assert types.count("TOOL_CALL_RESULT") == types.count("TOOL_CALL_START") == 1  # of the first, of the next
    (asked,) = state["pendingInterrupts"]
    state = page.run("r3", resume=[answer(asked, {"approved": True, "editedArgs": {"at": 77}})]).ends()
    (asked,) = state["pendingInterrupts"]
    state = page.run("r4", resume=[answer(asked, {"approved": False, "reason": "No."})]).ends()
    assert (last(state)["outcome"], state["pendingInterrupts"]) == ({"type": "success"}, [])
    assert page.text == "w0 w1 w2 w3 w77 w5 [rejected:6] w7"
    assert our_run(gateway, state)["text"] == page.text
    results = [each["content"] for each in state["messages"] if each["role"] == "tool"]
    assert results == ['{"word":"w2"}', '{"word":"w77"}', '{"rejected":"No."}']
    calls = [call for each in state["messages"] for call in each.get("toolCalls", ())]
    assert [call["function"]["arguments"] for call in calls] == ['{"at":2}', '{"at":77}', '{"at":6}']


def answer(asked: dict[str, Any], payload: Any) -> dict[str, Any]:
    return {"interruptId": asked["id"], "status": "resolved", "payload": payload}


def test_approve_after_a_reload(program: Program, gateway: GatewayThread):
    """A page that was closed meanwhile attaches to the pause, decides, and is attached to again by the new id."""
    Agent(program, gateway.url, "later").demo("r1", tokens=200, approve_at=[2], interval_ms=10).ends()
    page = Agent(program, gateway.url, "later")
    (asked,) = page.run("r1").ends()["pendingInterrupts"]
    page.run("r2", resume=[answer(asked, {"approved": True})]).shows("w20")
    other = Agent(program, gateway.url, "later").run("r2")
    assert last(other.ends())["outcome"] == {"type": "success"}
    page.ends()
    assert other.text == page.text == demo_text(200)


def test_questions(program: Program, gateway: GatewayThread):
    """An answer goes on; a cancelled question ends the run."""
    page = Agent(program, gateway.url, "ask")
    (asked,) = page.demo("r1", tokens=4, ask_at=[2]).ends()["pendingInterrupts"]
    assert (asked["reason"], asked["message"]) == ("input_required", "What shall stand before word 2?")
    page.run("r2", resume=[answer(asked, {"answer": "blue"})]).ends()
    assert page.text == "w0 w1 blue w2 w3"
    (asked,) = page.demo("r3", tokens=4, ask_at=[2]).ends()["pendingInterrupts"]
    state = page.run("r4", resume=[{"interruptId": asked["id"], "status": "cancelled"}]).ends()
    assert last(state)["outcome"] == {"type": "cancelled"}


def test_what_is_forged_or_stale_is_refused(program: Program, gateway: GatewayThread):
    """The run stays paused, whatever is sent; the first decision stands."""
    page = Agent(program, gateway.url, "forged")
    (asked,) = page.demo("r1", tokens=4, approve_at=[2]).ends()["pendingInterrupts"]
    run, action, call = asked["id"].split(".")
    approve = {"approved": True}
    for status, interrupt, payload in (
        (409, f"{run}.act_other.{call}", approve),
        (400, f"{run}.{action}.other", approve),
        (404, f"{'a' * 16}_{'a' * 26}.{action}.{call}", approve),
        (409, "x", approve),
        (400, asked["id"], None),
        (400, asked["id"], {"approved": "yes"}),
        (400, asked["id"], {"approved": True, "editedArgs": {"at": -1}}),
    ):
        body = {
            "threadId": "forged",
            "runId": "r9",
            "resume": [{"interruptId": interrupt, "status": "resolved", "payload": payload}],
        }
        reply = httpx.post(f"{gateway.url}/v1/ag-ui", json=body, trust_env=False)
        assert reply.status_code == status, (interrupt, payload, reply.text)
    other = {"threadId": "other", "runId": "r9", "resume": [answer(asked, approve)]}
    assert httpx.post(f"{gateway.url}/v1/ag-ui", json=other, trust_env=False).status_code == 404
    state = page.run("r2", resume=[answer(asked, approve)]).ends()
    assert last(state)["outcome"] == {"type": "success"}
    late = Agent(program, gateway.url, "forged")
    refused = late.run("r3", resume=[answer(asked, {"approved": False})]).ends()
    assert "decision_conflict" in refused["failure"]
    repeated = late.run("r4", resume=[answer(asked, approve)]).ends()
    assert late.text == page.text == demo_text(4)
    assert last(repeated)["outcome"] == {"type": "success"}


def test_a_failing_engine(program: Program, gateway: GatewayThread):
    """RUN_ERROR with the reason; what was said stays. What cannot be started is refused before a run."""
    page = Agent(program, gateway.url, "fails")
    state = page.demo("r1", tokens=9, fail_at=5).ends()
    assert (last(state)["type"], last(state)["code"]) == ("RUN_ERROR", "engine_error")
    assert last(state)["message"] == "DemoError: asked to fail before word 5"
    assert page.text == demo_text(5)
    assert "unknown_engine" in page.run("r2", engine="no_such_engine").ends()["failure"]


def test_a_drained_gateway_is_an_error_and_not_an_end(stage: Any, program: Program):
    """A gateway that stops resets the stream; the client attaches at the next one without a hole."""
    port = free_port()
    addresses = (stage.store.url(0), stage.broker.url(1))
    with GatewayThread(*addresses, port=port) as first:
        page = Agent(program, first.url, "drained").demo("r1", tokens=100_000, interval_ms=10)
        page.shows("w20")
    state = page.ends()
    assert state["failure"]
    assert last(state)["type"] not in ("RUN_FINISHED", "RUN_ERROR")
    seen = page.text
    with GatewayThread(*addresses, port=port) as second:
        page.run("r1")
        wait_until(lambda: len(page.text) > len(seen) + 20, description="what follows", timeout_s=60)
        abort_run(second, page.state)
        state = page.ends()
        assert page.text == our_run(second, state)["text"]
    assert page.text.startswith(seen)
    assert demo_text(100_000).startswith(page.text)


def test_a_killed_worker(live: Any, program: Program):
    """A run that begins again replaces the messages; one that cannot ends with RUN_ERROR."""
    first = live.worker("first", **QUICK)
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        wanted = {"tokens": 100_000, "interval_ms": 10}
        resumed = Agent(program, gateway.url, "lost")
        resumed.run("r1", engine="demo", input=wanted, on_worker_lost="resume")
        failed = Agent(program, gateway.url, "failed").run("r1", engine="demo", input=wanted)
        for page in (resumed, failed):
            page.shows("w9")
        live.worker("second", ready=False, **QUICK)
        first.sigkill()
        wait_until(
            lambda: "mainstem.restarted" in [event.get("name") for event in resumed.state["events"]],
            description="the run to begin again",
            timeout_s=60,
        )
        resumed.shows("w9")
        abort_run(gateway, resumed.state)
        state = resumed.ends()
        assert last(state)["outcome"] == {"type": "cancelled"}
        assert (resumed.text, len(state["messages"])) == (our_run(gateway, state)["text"], 1)
        assert demo_text(100_000).startswith(resumed.text)
        state = failed.ends()
        assert (last(state)["type"], last(state)["code"]) == ("RUN_ERROR", "worker_lost")
        assert demo_text(100_000).startswith(failed.text)
