"""Plain `def` engines: in threads, with the same context, and with the abort they can give."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from typing import Any

import pytest
from pydantic import BaseModel

from mainstem_shared import errors
from mainstem_shared.model.cursors import Cursor
from mainstem_tasks.sdk import registry
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine
from mainstem_tasks.sdk.sync_context import SyncRunContext
from mainstem_tasks.testing import EngineRun, MemoryChannel, run_engine
from support.waiting import wait_until_async

flavour: contextvars.ContextVar[str] = contextvars.ContextVar("flavour", default="plain")


class Words(BaseModel):
    words: list[str] = []


@pytest.fixture(autouse=True)
def own_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load()
    monkeypatch.setattr(registry, "_engines", dict(registry._engines))


async def ran(body: Any, run_input: dict[str, Any] | None = None, **options: Any) -> EngineRun:
    engine("plain", input_model=Words)(body)
    return await run_engine(body, run_input, **options)


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_plain_engines_can_do_what_async_ones_can():
    """Both contexts have the same methods, except for how a context is made and its waiting queue."""
    assert public(RunContext) <= public(SyncRunContext)
    assert public(SyncRunContext) - public(RunContext) == {"close"}


async def test_a_plain_engine_emits_like_any_other():
    """Text, reasoning, tools, steps, title, usage, agent, custom, flush, checkpoint: all arrive, in order."""

    def body(run: SyncRunContext[Words]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        for word in run.input.words:
            run.text(word)
        run.reasoning("hm")
        run.tool_call_start("c", "t")
        run.tool_call_delta("c", "{}")
        run.tool_call("c", "t", {})
        run.tool_result("c", 1)
        with run.step("s"):
            run.title("T")
        run.usage(input_tokens=1)
        run.context_usage(used=1)
        run.agent("a")
        run.custom("mine")
        assert run.flush() == Cursor(2, 14)
        run.checkpoint(b"state")
        assert not run.stopping
        assert run.idempotency_key("c").startswith("ms_")

    result = await ran(body, {"words": ["a", "b"]})
    assert result.text == "ab"
    assert [event.type for event in result.events] == [
        *["message.delta"] * 2,
        "reasoning.delta",
        "step.started",
        "step.delta",
        "step.started",
        "step.completed",
        "step.started",
        "title",
        "step.completed",
        "usage",
        "context_usage",
        "agent.updated",
        "custom",
    ]
    assert result.checkpoint == b"state"


async def test_context_variables_reach_the_thread():
    """What is set around the run (tracing) is there in a plain engine."""
    seen: list[str] = []

    def body(run: SyncRunContext[Words]) -> None:
        seen.append(flavour.get())

    token = flavour.set("traced")
    try:
        await ran(body)
    finally:
        flavour.reset(token)
    assert seen == ["traced"]


@pytest.mark.parametrize("failure", [KeyError("k"), StopIteration(), SystemExit(2), KeyboardInterrupt()])
async def test_whatever_a_plain_engine_raises_fails_its_run_only(failure: BaseException):
    """Ordinary errors come as they are; what would end a thread or the loop comes as an ordinary error."""

    def body(run: SyncRunContext[Words]) -> None:
        run.text("partial")
        raise failure

    result = await ran(body, check=False)
    assert result.text == "partial"
    expected = KeyError if isinstance(failure, KeyError) else RuntimeError
    assert type(result.error) is expected


async def test_errors_of_emitting_are_raised_where_the_engine_emits():
    """A limit or a mistake is an exception in the engine's own line, which it may handle."""

    def body(run: SyncRunContext[Words]) -> None:
        with pytest.raises(ValueError, match="No tool call"):
            run.tool_result("c", 1)
        with pytest.raises(errors.EventTooLarge):
            run.custom("big", "x" * 300_000)
        with pytest.raises(KeyError), run.step("fails"):
            raise KeyError
        run.text("went on")

    result = await ran(body)
    assert result.text == "went on"
    assert [step["state"] for step in result.fold.steps] == ["failed"]


async def test_a_plain_engine_pauses_like_any_other():
    """What it asks ends its function, and the run waits for the answer."""

    def body(run: SyncRunContext[Words]) -> None:
        run.text("before")
        run.ask(["Well?"])
        run.text("never said")

    result = await ran(body)
    assert result.text == "before"
    assert result.action is not None
    assert [question.text for question in result.action.questions] == ["Well?"]


async def test_a_stopped_plain_engine_ends_at_its_next_call():
    """The run ends at once; the thread sees `stopping`, and its next call raises CancelledError."""
    channel, ended = MemoryChannel(), threading.Event()
    seen: list[Any] = []

    def body(run: SyncRunContext[Words]) -> None:
        run.text("a")
        while not run.stopping:  # computes, without calling the context
            time.sleep(0.001)
        try:
            try:
                run.text("b")
            except Exception as error:
                seen.append(error)
        except asyncio.CancelledError:
            seen.append("cancelled")
        finally:
            ended.set()

    running = asyncio.create_task(ran(body, channel=channel))
    await wait_until_async(lambda: channel.fold.text == "a", description="the engine to be at work")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until_async(ended.is_set, description="the thread to end")
    assert seen == ["cancelled"]
    assert channel.fold.text == "a"


async def test_a_plain_engine_that_waits_for_room_can_be_stopped():
    """Back-pressure blocks the thread, and a stop releases it."""
    ended = threading.Event()

    class Full(MemoryChannel):
        @property
        def congested(self) -> bool:
            return True

        async def drained(self) -> None:
            await asyncio.Event().wait()

    channel = Full()

    def body(run: SyncRunContext[Words]) -> None:
        try:
            run.text("a")
        except asyncio.CancelledError:
            ended.set()
            raise

    running = asyncio.create_task(ran(body, channel=channel))
    await wait_until_async(lambda: channel.fold.text == "a", description="the engine to wait for room")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until_async(ended.is_set, description="the thread to end")


async def test_plain_engines_run_beside_each_other():
    """Each has a thread of its own: more than the loop's executor has can wait for each other."""
    parties = 64
    barrier = threading.Barrier(parties, timeout=20)

    def body(run: SyncRunContext[Words]) -> None:
        barrier.wait()
        run.text("met")

    engine("plain", input_model=Words)(body)
    results = await asyncio.gather(*(run_engine(body) for _ in range(parties)))
    assert {result.text for result in results} == {"met"}


@pytest.mark.parametrize(
    "name", ["request_approval", "ask", "tool_call", "tool_result", "usage", "checkpoint", "custom"]
)
def test_plain_engines_pass_the_same_arguments(name: str):
    """A method has the same parameters, types and defaults in both contexts: editors and type checkers help alike."""
    plain, other = (inspect.signature(getattr(context, name)) for context in (SyncRunContext, RunContext))
    assert plain.parameters == other.parameters
    loose = [one for one in plain.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    assert all(
        str(one.annotation).startswith("Unpack[") for one in loose
    )  # whose members have names and types


class Unreadable(BaseException):
    """A failure that nobody can look at."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


async def test_a_failure_that_cannot_be_described_ends_the_engine():
    """It ends at once, as a failure: its thread is not waited for until the idle limit."""

    def body(run: SyncRunContext[Words]) -> None:
        raise Unreadable

    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match="engine raised Unreadable"):
            await ran(body)
