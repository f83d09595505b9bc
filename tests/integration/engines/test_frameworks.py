"""One conformance suite for the agents of all frameworks, and for the built-in engines: the same agent, the same scenarios, the same promises.

On a worker's real runtime and store, against a provider that refuses every history that real ones refuse.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Run
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk import tools
from support.engines import (
    builtin_engines,
    framework_tools,
    langgraph_agents,
    openai_agents_agents,
    pydantic_ai_agents,
)
from support.fakes.strict_provider import StrictProvider
from support.paths import ROOT
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

SERVE: dict[str, Callable[[str], None]] = {
    "langgraph": langgraph_agents.serve,
    "openai_agents": openai_agents_agents.serve,
    "pydantic_ai": pydantic_ai_agents.serve,
}
"""What serves each framework's agent under its name, on a provider at an address."""
COLUMNS = sorted({*SERVE, *builtin_engines.ENGINES})
LIMITS = {
    ("langgraph", "test_reasoning_is_kept_apart_from_the_answer"): (
        "langchain-openai drops the reasoning of chat completions; that of other models is kept."
    ),
    **{
        (name, scenario): "A tool that runs an agent shows its result alone."
        for name in COLUMNS
        if name not in SERVE
        for scenario in (
            "test_agents_in_tools_are_apart_and_side_by_side",
            "test_an_approval_in_a_sub_agent_says_whose_it_is",
            "test_an_abort_in_a_sub_agent_ends_it",
        )
    },
    ("openai_agents", "test_an_edited_call_runs_as_edited"): "The SDK approves or rejects; it edits nothing.",
}
"""What a framework cannot do, and why: `docs/engines.md` says so too."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A thread with an agent: asks it, on whichever of two workers."""

    engine: str
    runs: AsyncRuns
    workers: tuple[Runtime, Runtime]
    provider: StrictProvider

    async def start(self, text: str, **options: Any) -> str:
        run_input = {"text": text} if self.engine in SERVE else builtin_engines.asked(text)
        engine = builtin_engines.ENGINES.get(self.engine, self.engine)
        return (await self.runs.start("desk", engine, run_input, **options)).run_id

    async def execute(self, run_id: str, *, worker: int = 0) -> str:
        return await segments.execute(self.workers[worker], run_id, task_id="t")

    async def ask(self, text: str, *, worker: int = 0, **options: Any) -> Run:
        run_id = await self.start(text, **options)
        await self.execute(run_id, worker=worker)
        return await self.runs.get(run_id)

    async def decide(self, run: Run, *decisions: dict[str, Any], worker: int = 1) -> Run:
        """Decide about each call, and let the run go on elsewhere."""
        assert run.action is not None
        decided = [
            {"call_id": call["call_id"], **decision}
            for call, decision in zip(run.action["calls"], decisions, strict=True)
        ]
        await self.runs.resume(run.run_id, run.action["action_id"], decisions=decided)
        await self.execute(run.run_id, worker=worker)
        return await self.runs.get(run.run_id)

    async def begun(self, text: str, *, says: str = "", does: str = "") -> tuple[str, asyncio.Task[str]]:
        """Start a run; return once it has said, or begun to do, something."""
        run_id = await self.start(text)
        task = asyncio.create_task(self.execute(run_id))

        async def is_there() -> bool:
            done = any(name == does for name, _ in framework_tools.effects)
            return done if does else says in (await self.runs.get(run_id)).text

        await wait_until_async(is_there, description=f"{text!r} to begin")
        return run_id, task


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictProvider]:
    """One provider for all agents of the module."""
    with StrictProvider() as provider:
        yield provider


@pytest.fixture(params=COLUMNS)
async def desk(
    request: pytest.FixtureRequest,
    strict: StrictProvider,
    runs: AsyncRuns,
    settings: Settings,
    closing_clients: None,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Desk]:
    """An agent of each framework, and two workers. In the end the provider has refused no history."""
    if (request.param, request.node.originalname) in LIMITS:
        pytest.xfail(LIMITS[request.param, request.node.originalname])
    strict.clear()
    framework_tools.effects.clear()
    if request.param in SERVE:
        SERVE[request.param](strict.url)  # with clients of this test's loop
    else:
        monkeypatch.setattr(tools, "_tools", builtin_engines.TOOLS)
        settings = settings.model_copy(update=builtin_engines.settings(request.param, strict.url))
    async with working(settings) as first, working(settings) as second:
        yield Desk(engine=request.param, runs=runs, workers=(first, second), provider=strict)
    assert strict.faults == []


def calls_of(run: Run) -> list[dict[str, Any]]:
    return [part for part in run.content if part["type"] == "tool_call"]


# -- what an answer becomes


async def test_text_streams_into_the_run(desk: Desk):
    """The answer's text is the run's."""
    run = await desk.ask("long:3")
    assert (run.status, run.text) == ("succeeded", "w0 w1 w2 [1 user turns]")


async def test_reasoning_is_kept_apart_from_the_answer(desk: Desk):
    """It is a part of its own, before the text."""
    run = await desk.ask("think")
    assert [part["type"] for part in run.content] == ["reasoning", "text"]
    assert run.content[0]["text"] == "Let me see."


async def test_tool_calls_have_their_results(desk: Desk):
    """Arguments and result of a tool are in the content, and the model goes on with the result."""
    run = await desk.ask("the weather")
    (call,) = calls_of(run)
    assert (call["name"], call["arguments"], call["state"]) == ("get_weather", {"city": "Rome"}, "completed")
    assert call["result"] == "sunny in Rome"
    assert run.text.endswith("Tools said sunny in Rome. [1 user turns]")


async def test_usage_is_told_by_model(desk: Desk):
    """Each provider call counts, with cached and reasoning tokens."""
    run = await desk.ask("the weather")
    assert run.usage is not None
    assert (run.usage.input_tokens, run.usage.output_tokens) == (200, 14)
    assert (run.usage.cached_input_tokens, run.usage.reasoning_tokens) == (128, 4)
    assert [(model.model, model.calls) for model in run.usage.models] == [("mock-1", 2)]


async def test_a_turn_knows_the_turns_before(desk: Desk):
    """Calls and results of earlier turns are part of the history, which the provider takes."""
    for number, text in enumerate(("the weather", "long:1", "hello"), 1):
        run = await desk.ask(text, worker=number % 2)
        assert run.status == "succeeded"
        assert run.text.endswith(f"[{number} user turns]")
    assert any(message["role"] == "tool" for message in desk.provider.requests[-1]["messages"])


# -- humans


async def test_an_approved_call_runs_once_on_another_worker(desk: Desk):
    """Nothing runs before the decision; then the tool runs once, and the agent goes on."""
    paused = await desk.ask("pay")
    assert (paused.status, framework_tools.effects) == ("requires_action", [])
    run = await desk.decide(paused, {"type": "approve"})
    assert (run.status, framework_tools.effects) == ("succeeded", [("transfer", 10)])
    assert calls_of(run)[0]["result"] == "sent 10 to bob"
    assert run.text.endswith("Tools said sent 10 to bob. [1 user turns]")


async def test_a_rejected_call_never_runs(desk: Desk):
    """The model is told why."""
    run = await desk.decide(await desk.ask("pay"), {"type": "reject", "reason": "too much"})
    assert (run.status, framework_tools.effects) == ("succeeded", [])
    assert calls_of(run)[0]["state"] == "failed"
    assert "too much" in run.text


async def test_an_edited_call_runs_as_edited(desk: Desk):
    """The tool gets the arguments that were decided; the content shows them."""
    edited = {"type": "edit", "arguments": {"amount": 3, "to": "eve"}}
    run = await desk.decide(await desk.ask("pay"), edited)
    assert framework_tools.effects == [("transfer", 3)]
    (call,) = calls_of(run)
    assert call["arguments"] == {"amount": 3, "to": "eve"}
    assert call["result"].endswith("sent 3 to eve")


async def test_the_turn_after_a_pause_has_a_valid_history(desk: Desk):
    """A rejected call and its pause are behind, the next turn is accepted."""
    await desk.decide(await desk.ask("pay"), {"type": "reject", "reason": "no"})
    run = await desk.ask("hello")
    assert (run.status, run.text) == ("succeeded", "[2 user turns]")


# -- agents that tools run


def agents_of(run: Run) -> dict[str, dict[str, Any]]:
    """The latest part of each agent, by name: after a pause it goes on in another one."""
    parts = [part for part in run.content if part["type"] == "data" and part["name"] == "agent"]
    return {part["value"]["agent"]: {**part["value"], "id": part["id"]} for part in parts}


async def test_agents_in_tools_are_apart_and_side_by_side(desk: Desk):
    """Two work at once: texts never mix, calls and usage name the agent, and the run's text is the root's."""
    run = await desk.ask("delegate, consult")
    assert run.status == "succeeded", run
    calls = {call["name"]: call for call in calls_of(run)}
    shown = agents_of(run)
    weather = "I will call. Tools said sunny in Rome. [1 user turns]"
    words = "".join(f"w{n} " for n in range(30)) + "[1 user turns]"
    assert {name: made["text"] for name, made in shown.items()} == {"expert": weather, "writer": words}
    assert {made["state"] for made in shown.values()} == {"completed"}
    for name, made in shown.items():
        assert made["parent"] == calls[f"ask_{name}"]["call_id"]
    assert (calls["get_weather"]["agent"], calls["get_weather"]["result"]) == (
        shown["expert"]["id"],
        "sunny in Rome",
    )
    assert "agent" not in calls["ask_expert"]
    assert run.text.startswith("I will call. Tools said ")
    assert "w29" in run.text
    assert run.text.count("I will call.") == 1
    assert run.usage is not None
    whose = sorted(str(call.agent) for call in run.usage.calls or ())
    ids = {name: made["id"] for name, made in shown.items()}
    assert whose == sorted(["None", "None", ids["expert"], ids["expert"], ids["writer"]])
    assert (await desk.ask("hello")).text == "[2 user turns]"


async def test_an_approval_in_a_sub_agent_says_whose_it_is(desk: Desk):
    """It names agent and parent; decided on another worker the same agent goes on, and the tool runs once."""
    paused = await desk.ask("settle")
    assert paused.action is not None
    (asked,) = paused.action["calls"]
    outer = next(call for call in calls_of(paused) if call["name"] == "ask_payer")
    assert (asked["name"], asked["agent"], asked["parent"]) == ("transfer", "payer", outer["call_id"])
    assert framework_tools.effects == []
    run = await desk.decide(paused, {"type": "approve"})
    assert (run.status, framework_tools.effects) == ("succeeded", [("transfer", 10)])
    before, after = agents_of(paused)["payer"], agents_of(run)["payer"]
    assert (before["state"], before["text"]) == ("paused", "I will call. ")
    assert (after["state"], after["text"]) == ("completed", "Tools said sent 10 to bob. [1 user turns]")
    assert before["parent"] == after["parent"] == outer["call_id"]
    inner = next(call for call in calls_of(run) if call["name"] == "transfer")
    assert (inner["agent"], inner["result"]) == (before["id"], "sent 10 to bob")


async def test_an_abort_in_a_sub_agent_ends_it(desk: Desk):
    """Its calls and its part end as the run does, and the next turn is accepted."""
    run_id, task = await desk.begun("stall", does="wait")
    await desk.runs.abort(run_id, wait=10)
    assert await task == "user_abort"
    run = await desk.runs.get(run_id)
    assert agents_of(run)["waiter"]["state"] == "aborted"
    assert {call["name"]: call["state"] for call in calls_of(run)} == {
        "ask_waiter": "aborted",
        "wait": "aborted",
    }
    assert (await desk.ask("hello")).text == "[2 user turns]"


# -- stops


async def test_an_abort_in_text_closes_the_providers_stream(desk: Desk):
    """At once, with the words so far kept; the next turn is accepted."""
    run_id, task = await desk.begun("slow", says="Once upon a time")
    began = time.monotonic()
    await desk.runs.abort(run_id, wait=10)
    assert await task == "user_abort"
    await wait_until_async(lambda: desk.provider.left, description="the provider's stream to be closed")
    assert desk.provider.left[0] - began < 1
    run = await desk.runs.get(run_id)
    assert (run.status, run.text) == ("aborted", "Once upon a time")
    assert run.usage is not None
    assert run.usage.estimated
    assert (await desk.ask("hello")).text == "[2 user turns]"


async def test_an_abort_in_a_tool_leaves_a_valid_history(desk: Desk):
    """The call has ended as the run did, and the next turn is accepted."""
    run_id, task = await desk.begun("wait", does="wait")
    await desk.runs.abort(run_id, wait=10)
    assert await task == "user_abort"
    (call,) = calls_of(await desk.runs.get(run_id))
    assert (call["name"], call["state"]) == ("wait", "aborted")
    run = await desk.ask("hello")
    assert (run.status, run.text) == ("succeeded", "[2 user turns]")


async def test_an_abort_of_a_paused_run_leaves_a_valid_history(desk: Desk):
    """The call never runs, and the next turn is accepted."""
    paused = await desk.ask("pay")
    await desk.runs.abort(paused.run_id, wait=10)
    run = await desk.ask("hello", worker=1)
    assert (run.status, run.text, framework_tools.effects) == ("succeeded", "[2 user turns]", [])


# -- others


async def test_a_tool_that_blocks_holds_up_nobody(desk: Desk):
    """A plain function computes for 0.4 s: the loop turns all the while."""
    longest, last = 0.0, time.monotonic()
    asking = asyncio.create_task(desk.ask("block"))
    while not asking.done():
        await asyncio.sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert asking.result().status == "succeeded"
    assert framework_tools.effects == [("block", 0.4)]
    assert longest < 0.3


# -- what goes wrong


async def test_a_refusal_of_the_provider_is_its_error(desk: Desk):
    """The reason says so, with status and words, and without the key."""
    run = await desk.ask("refuse")
    assert (run.status, run.reason) == ("failed", "provider_error")
    assert run.error is not None
    assert run.error.status == 429
    assert "quota exceeded" in run.error.message
    assert "verysecret" not in run.error.message


async def test_a_broken_answer_runs_no_tool(desk: Desk):
    """The connection breaks inside a call's arguments: nothing runs, and the next turn is accepted."""
    run = await desk.ask("the weather, break")
    assert (run.status, run.reason, framework_tools.effects) == ("failed", "provider_error", [])
    again = await desk.ask("hello")
    assert (again.status, again.text) == ("succeeded", "[2 user turns]")


async def test_a_budget_ends_the_run_before_a_call_it_has_no_room_for(desk: Desk):
    """The provider is not even asked."""
    run = await desk.ask("hello", budget={"tokens": 10})
    assert (run.status, run.reason, desk.provider.requests) == ("failed", "budget_reached", [])


async def test_a_time_limit_ends_the_run(desk: Desk):
    """As timed out, and the next turn is accepted."""
    run_id, task = await desk.begun("slow", says="Once upon a time")
    desk.workers[0].segments[run_id].stop(segments.StopCause.TIMED_OUT)
    await task
    assert (await desk.runs.get(run_id)).reason == "timed_out"
    assert (await desk.ask("hello")).text == "[2 user turns]"


# -- what the documentation says of it


def table() -> str:
    """Return the table of `docs/engines.md`: a row for each scenario above, a column for each framework."""
    names = COLUMNS
    scenarios = [
        name
        for name, made in globals().items()
        if name.startswith("test_") and "desk" in signature(made).parameters
    ]
    rows = [
        "| | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for scenario in scenarios:
        cells = [LIMITS.get((name, scenario), "yes") for name in names]
        rows.append(f"| {scenario.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_documentation_has_this_suites_table():
    """Its rows are the scenarios, a `yes` is a test that passes, anything else a limit with its reason."""
    assert table() in (ROOT / "docs" / "engines.md").read_text()
