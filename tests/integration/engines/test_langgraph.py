"""What is LangGraph's own: interrupts of any kind, subgraphs, structured output, and a state that survives a worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from operator import add
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from mainstem_api import AsyncRuns
from mainstem_shared.model.actions import Decision
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.langgraph import serve_graph
from mainstem_tasks.execution import segments
from mainstem_tasks.testing import EngineRun, MemoryChannel, run_engine
from support.processes.in_process_worker import working

Node = Callable[[Any], Any]


def chain(state: type, **nodes: Node) -> Any:
    """A graph whose nodes follow each other."""
    graph: Any = StateGraph(state)
    names = [START, *nodes, END]
    for name, node in nodes.items():
        graph.add_node(name, node)
    for one, other in pairwise(names):
        graph.add_edge(one, other)
    return graph


class Form(TypedDict, total=False):
    text: str
    seen: Annotated[list[str], add]
    answer: Any


async def resumed(
    engine: str, paused: EngineRun, *, check: bool = True, **answers: dict[str, Any]
) -> EngineRun:
    """Answer all questions of a pause; the names of `answers` are what the questions' texts begin with."""
    assert paused.action is not None
    decisions = {}
    for question in paused.action.questions:
        given = next(value for name, value in answers.items() if question.text.startswith(name))
        decisions[question.question_id] = Decision(id=question.question_id, type="answer", **given)
    return await run_engine(
        engine,
        {"text": "go"},
        check=check,
        state=paused.checkpoint,
        memory=paused.memory,
        decisions=decisions,
        segment=2,
        channel=MemoryChannel(paused.fold, epoch=3),
    )


async def test_interrupts_of_several_kinds_are_asked_at_once():
    """A text is a question, anything else is data to answer with JSON; each node gets its own answer."""

    def ask(state: Form) -> Form:
        return {"seen": [interrupt("Which one?")]}

    def show(state: Form) -> Form:
        return {"seen": [str(interrupt({"draft": "Dear Bob"})["ok"])]}

    graph: Any = StateGraph(Form)
    for name, node in (("ask", ask), ("show", show)):
        graph.add_node(name, node)
        graph.add_edge(START, name)
    serve_graph("lg_asks", graph.compile())
    paused = await run_engine("lg_asks", {"text": "go"})
    assert paused.action is not None
    assert {q.type: q.value for q in paused.action.questions} == {
        "question": None,
        "data": {"draft": "Dear Bob"},
    }
    done = await resumed("lg_asks", paused, Which={"text": "this"}, **{'{"draft': {"value": {"ok": 1}}})
    assert sorted(done.output["seen"]) == ["1", "this"]


async def test_a_node_that_was_done_is_not_done_again():
    """After a pause only the node that asked is entered again, also in a subgraph."""
    entered: list[str] = []

    def first(state: Form) -> Form:
        entered.append("first")
        return {"seen": ["first"]}

    def inner(state: Form) -> Form:
        entered.append("inner")
        return {"seen": [interrupt("Go on?")]}

    below = chain(Form, inner_first=lambda state: entered.append("inner_first"), inner=inner).compile()
    serve_graph("lg_sub", chain(Form, first=first, below=below).compile())
    paused = await run_engine("lg_sub", {"text": "go"})
    done = await resumed("lg_sub", paused, Go={"text": "yes"})
    assert entered == ["first", "inner_first", "inner", "inner"]
    assert done.output["seen"][-1] == "yes"


async def test_a_decision_is_the_runs_until_a_step_has_taken_it():
    """Nothing is committed before: after a lost worker the next one gets the decision, too, and asks nobody."""

    def ask(state: Form) -> Form:
        interrupt("Go on?")
        raise RuntimeError("lost")

    serve_graph("lg_lost", chain(Form, first=lambda state: {"seen": ["first"]}, ask=ask).compile())
    paused = await run_engine("lg_lost", {"text": "go"})
    assert paused.checkpoint is not None
    lost = await resumed("lg_lost", paused, check=False, Go={"text": "yes"})
    assert (str(lost.error), lost.checkpoint) == ("lost", None)


async def test_a_node_may_ask_twice():
    """Each question in its turn; what the first answer was, the node gets again."""

    def ask(state: Form) -> Form:
        return {"seen": [interrupt("First?"), interrupt("Second?")]}

    serve_graph("lg_twice", chain(Form, ask=ask).compile())
    once = await resumed("lg_twice", await run_engine("lg_twice", {"text": "go"}), First={"text": "a"})
    assert (await resumed("lg_twice", once, Second={"text": "b"})).output["seen"] == ["a", "b"]


async def test_a_node_may_say_where_it_goes():
    """`Command(goto=…)` leads past what does not follow, also to a node that asks."""

    def turn(state: Form) -> Any:
        return Command(goto="ask", update={"seen": ["turn"]})

    graph: Any = StateGraph(Form)
    graph.add_node("turn", turn)
    graph.add_node("never", lambda state: {"seen": ["never"]})
    graph.add_node("ask", lambda state: {"seen": [interrupt("Go?")]})
    graph.add_edge(START, "turn")
    serve_graph("lg_goto", graph.compile())
    paused = await run_engine("lg_goto", {"text": "go"})
    assert (await resumed("lg_goto", paused, Go={"text": "yes"})).output["seen"] == ["turn", "yes"]


async def test_the_state_of_a_graph_without_messages_is_the_threads():
    """The next run finds it; its memory holds one checkpoint, however many there were."""
    serve_graph("lg_state", chain(Form, note=lambda state: {"seen": [state["text"]]}).compile())
    memory: dict[str, bytes] = {}
    for number in range(5):
        done = await run_engine("lg_state", {"text": str(number)}, memory=memory)
        memory = done.memory
    assert done.output["seen"] == ["0", "1", "2", "3", "4"]
    assert len(memory) < 12


async def test_what_nodes_write_is_data():
    """The same id replaces it in its place."""

    def work(state: Form) -> Form:
        for percent in (10, 100):
            get_stream_writer()({"id": "p", "name": "progress", "percent": percent})
        return {}

    serve_graph("lg_writes", chain(Form, work=work).compile())
    done = await run_engine("lg_writes", {"text": "go"})
    value = {"id": "p", "name": "progress", "percent": 100}
    assert done.content == [{"type": "data", "id": "p", "name": "progress", "value": value}]


@pytest.mark.parametrize(
    "block", [{"type": "reasoning", "reasoning": "Hm."}, {"type": "thinking", "thinking": "Hm."}]
)
async def test_reasoning_blocks_are_kept_apart(block: dict[str, Any]):
    """Those of the Responses API and of Anthropic."""
    said = AIMessage([block, {"type": "text", "text": "Yes."}])
    serve_graph("lg_thinks", chain(MessagesState, model=lambda state: {"messages": [said]}).compile())
    done = await run_engine("lg_thinks", {"text": "go"})
    assert [(part["type"], part["text"]) for part in done.content] == [("reasoning", "Hm."), ("text", "Yes.")]


async def test_a_model_in_a_plain_function_counts_and_asks_its_budget(runs: AsyncRuns, settings: Settings):
    """It speaks from a thread: on the run's loop it counts, and a budget without room ends the run."""
    used: Any = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    asked: list[int] = []

    def model(state: MessagesState) -> Any:
        asked.append(1)
        fake = GenericFakeChatModel(
            messages=iter([AIMessage("Yes.", usage_metadata=used)]), disable_streaming=True
        )
        return {"messages": [fake.invoke(state["messages"])]}

    serve_graph("lg_plain", chain(MessagesState, model=model).compile())
    async with working(settings) as here:
        run_id = (await runs.start("t", "lg_plain", {"text": "hello"})).run_id
        await segments.execute(here, run_id, task_id="t")
        run = await runs.get(run_id)
        assert (run.text, run.usage.input_tokens, run.usage.output_tokens) == ("Yes.", 7, 2)
        run_id = (await runs.start("t", "lg_plain", {"text": "hello"}, budget={"tokens": 10})).run_id
        await segments.execute(here, run_id, task_id="t")
        assert (await runs.get(run_id)).reason == "budget_reached"


def test_a_checkpointer_of_the_applications_own_is_warned_of(caplog: pytest.LogCaptureFixture):
    """It works, but a kill may part state and content; differences need all checkpoints, and are refused."""
    with caplog.at_level(logging.WARNING):
        serve_graph("lg_foreign", chain(Form, note=lambda state: {}).compile(checkpointer=InMemorySaver()))
    assert [vars(record)["action"] for record in caplog.records] == ["foreign_checkpointer"]

    class Grows(TypedDict):
        seen: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *new], list)]

    with pytest.raises(ValueError, match="DeltaChannel"):
        serve_graph("lg_delta", chain(Grows, note=lambda state: {}).compile())


async def test_a_lost_worker_leaves_state_and_content_at_the_same_point(
    runs: AsyncRuns, settings: Settings, closing_clients: None
):
    """What was committed is not done again; what was not is done by the worker that goes on, and told once."""
    done: list[str] = []
    stuck = asyncio.Event()

    async def one(state: Form) -> Form:
        done.append("one")
        get_stream_writer()({"id": "one", "name": "step"})
        return {"seen": ["one"]}

    async def two(state: Form) -> Form:
        done.append("two")
        if done.count("two") == 1:
            get_stream_writer()({"id": "lost", "name": "step"})
            stuck.set()
            await asyncio.Event().wait()
        return {"seen": ["two"]}

    serve_graph("lg_lost", chain(Form, one=one, two=two).compile())
    async with working(settings) as first, working(settings) as second:
        run_id = (await runs.start("t", "lg_lost", {"text": "go"})).run_id
        task = asyncio.create_task(segments.execute(first, run_id, task_id="t"))
        await stuck.wait()
        first.segments[run_id].stop(segments.StopCause.SHUTDOWN)
        assert await task == segments.HANDED_OVER
        assert await segments.execute(second, run_id, task_id="t2") == "completed"
    run = await runs.get(run_id)
    assert done == ["one", "two", "two"]
    assert run.output["seen"] == ["one", "two"]


# -- agents in tools


class Speaks(FakeMessagesListChatModel):
    """A model that says what it was given, in turn, and takes any tools."""

    def bind_tools(self, *_: Any, **__: Any) -> Any:
        return self


def call(call_id: str, name: str, **arguments: Any) -> Any:
    return {"id": call_id, "name": name, "args": arguments}


def speaks(*said: AIMessage) -> Speaks:
    used: Any = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}
    return Speaks(responses=[message.model_copy(update={"usage_metadata": used}) for message in said])


def look(what: str) -> str:
    """Look at something."""
    if what == "nothing":
        raise ValueError("There is nothing.")
    return f"saw {what}"


def desk(*parts: Any, middleware: Any = ()) -> Any:
    """Build an agent whose two tools ask agents of their own: side by side, one from a thread."""
    helpers = {
        name: create_agent(
            speaks(
                AIMessage("", tool_calls=[call("call_0", "look", what=name)]), AIMessage(f"{name} knows.")
            ),
            tools=[tool(look)],
            name=name,
            middleware=middleware,
        )
        for name in ("ann", "bob")
    }

    @tool
    async def ask_ann(question: str) -> str:
        """Ask Ann."""
        told = await helpers["ann"].ainvoke({"messages": [("user", question)]})
        return told["messages"][-1].text

    @tool
    def ask_bob(question: str) -> str:
        """Ask Bob."""
        told = helpers["bob"].invoke({"messages": [("user", question)]})
        return told["messages"][-1].text

    both = AIMessage(
        "", tool_calls=[call("call_0", "ask_ann", question="?"), call("b", "ask_bob", question="?")]
    )
    return lambda checkpointer: create_agent(
        speaks(both, AIMessage("Both know.")), tools=[ask_ann, ask_bob], checkpointer=checkpointer
    )


def agents_of(content: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    parts = [part for part in content if part["type"] == "data" and part["name"] == "agent"]
    return {part["value"]["agent"]: {"id": part["id"], **part["value"]} for part in parts}


async def test_agents_in_tools_are_agents_of_the_run():
    """Each says its own, for the call it works for; the run's text is the root's, and usage names whose it is."""
    serve_graph("lg_desk", desk())
    done = await run_engine("lg_desk", {"text": "go"})
    assert done.text == "Both know."
    agents = agents_of(done.content)
    assert {name: (agent["text"], agent["state"]) for name, agent in agents.items()} == {
        "ann": ("ann knows.", "completed"),
        "bob": ("bob knows.", "completed"),
    }
    calls = [part for part in done.content if part["type"] == "tool_call"]
    asked = {one["name"]: one["call_id"] for one in calls if one["name"].startswith("ask_")}
    assert {name: agent["parent"] for name, agent in agents.items()} == {
        "ann": asked["ask_ann"], "bob": asked["ask_bob"],
    }  # fmt: skip
    looks = {one["arguments"]["what"]: one for one in calls if one["name"] == "look"}
    for name, agent in agents.items():
        assert (looks[name]["agent"], looks[name]["parent"]) == (agent["id"], agent["parent"])
        assert (looks[name]["state"], looks[name]["result"]) == ("completed", f"saw {name}")
    assert len({one["call_id"] for one in calls}) == 4, "each has an id of its own"
    assert done.usage is not None
    whose = Counter(one.get("agent") for one in done.usage.model_dump(mode="json")["calls"])
    assert whose == {None: 2, agents["ann"]["id"]: 2, agents["bob"]["id"]: 2}


@pytest.mark.parametrize("mode", ["batched", "per_call"])
async def test_an_agent_in_a_tool_may_ask_a_human(mode: Any):
    """Both wait, and go on where they were once it is decided about their calls, which say whose they are."""
    name = f"lg_careful_{mode}"
    review = HumanInTheLoopMiddleware(interrupt_on={"look": True}, interrupt_mode=mode)
    serve_graph(name, desk(middleware=[review]))
    paused = await run_engine(name, {"text": "go"})
    assert paused.action is not None
    asked = {call.arguments["what"]: call for call in paused.action.calls}
    assert {what: call.name for what, call in asked.items()} == {"ann": "look", "bob": "look"}
    parents = {
        part["name"].removeprefix("ask_"): part["call_id"]
        for part in paused.content
        if part["type"] == "tool_call" and part["name"].startswith("ask_")
    }
    for call in paused.action.public()["calls"]:
        what = call["arguments"]["what"]
        assert (call["agent"], call["parent"]) == (what, parents[what])
    assert {agent["state"] for agent in agents_of(paused.content).values()} == {"paused"}
    first, second = asked["ann"], asked["bob"]
    shown = {
        part["call_id"] for part in paused.content if part["type"] == "tool_call" and part["name"] == "look"
    }
    assert shown == {first.call_id, second.call_id}, "what is asked is what readers see"
    decisions = {
        first.call_id: Decision(id=first.call_id, type="approve"),
        second.call_id: Decision(id=second.call_id, type="reject", reason="Not now."),
    }
    done = await run_engine(
        name, {"text": "go"}, state=paused.checkpoint, memory=paused.memory, decisions=decisions,
        segment=2, channel=MemoryChannel(paused.fold, epoch=3),
    )  # fmt: skip
    assert done.text == "Both know."
    looks = [part for part in done.content if part["type"] == "tool_call" and part["name"] == "look"]
    assert {one["arguments"]["what"]: (one["state"], one["result"][-8:]) for one in looks} == {
        "ann": ("completed", "saw ann"),
        "bob": ("failed", "Not now."),
    }
    assert len(looks) == 2


async def test_a_stop_ends_an_agent_in_a_tool():
    """Its part says so, and nothing of it is the run's text."""
    begun = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        await asyncio.Event().wait()
        return ""

    inner = create_agent(
        speaks(AIMessage("I wait.", tool_calls=[call("w", "wait")])), tools=[wait], name="ann"
    )

    @tool
    async def ask() -> str:
        """Ask Ann."""
        return (await inner.ainvoke({"messages": [("user", "?")]}))["messages"][-1].text

    outer = create_agent(speaks(AIMessage("", tool_calls=[call("a", "ask")])), tools=[ask])
    serve_graph("lg_stopped", outer)
    channel = MemoryChannel()
    task = asyncio.create_task(run_engine("lg_stopped", {"text": "go"}, channel=channel))
    await begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    content = channel.fold.dump()["content"]
    assert {name: (agent["state"], agent["text"]) for name, agent in agents_of(content).items()} == {
        "ann": ("aborted", "I wait.")
    }


class Counted(MessagesState, total=False):
    turns: int


async def test_a_fork_has_the_whole_state_of_its_moment(settings: Settings, runs: AsyncRuns):
    """At the thread's end all channels; at an earlier message the messages alone, and nothing that came later."""

    def count(state: Any) -> dict[str, Any]:
        turns = state.get("turns", 0) + 1
        return {"messages": [AIMessage(f"{len(state['messages'])} messages, {turns} turns")], "turns": turns}

    serve_graph("lg_counts", chain(Counted, count=count).compile())
    said = {"messages": [{"role": "user", "content": "hi"}]}
    async with working(settings) as here:

        async def turn(thread: str) -> str:
            run_id = (await runs.start(thread, "lg_counts", said)).run_id
            await segments.execute(here, run_id, task_id="t")
            return run_id

        first = await turn("t")
        await turn("t")
        fork = await runs.fork_thread("t")
        again = await runs.fork_thread(fork.thread_id)
        earlier = await runs.fork_thread("t", at=first)
        texts = {(await runs.get(await turn(made.thread_id))).text: made for made in (fork, again, earlier)}
    assert list(texts) == ["5 messages, 3 turns", "3 messages, 1 turns"]
