"""Plain `def` tools: nobody can stop their threads, so nobody waits for them, and they learn of it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from mainstem_tasks.sdk import tool_threads, tools
from mainstem_tasks.sdk.tools import Tool, ToolCall, get, tool

NOTED: list[str] = []
LEFT = threading.Event()


@tool(name="test_patient", timeout_s=0.1)
def patient(call: ToolCall, steps: int = 1000) -> str:
    """Work in steps, and look up between them."""
    for _ in range(steps):
        if call.stopping:
            NOTED.append("stopped")
            LEFT.set()
            return "too late"
        time.sleep(0.005)
    return "done"


@tool(name="test_exits")
def exits() -> None:
    """End the thread."""
    sys.exit(3)


class Unreadable(BaseException):
    """A failure that nobody can look at."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    __str__ = __repr__


class Ended(Unreadable, StopIteration):
    """The same of an ordinary kind, which no future carries."""


@tool(name="test_unreadable")
def unreadable(kind: str) -> None:
    """Fail so that nobody can say how."""
    raise {"no Exception": Unreadable, "StopIteration": Ended}[kind]


@tool(name="test_async_wild")
async def async_wild(kind: str) -> None:
    """Let something out that would end a task, or a loop."""
    if kind == "cancelled":
        work = asyncio.ensure_future(asyncio.sleep(60))
        work.cancel()
        await work
    raise {"exit": SystemExit, "interrupt": KeyboardInterrupt}[kind]


@tool(name="test_times_out")
def times_out() -> None:
    """Fail by a timeout of its own."""
    raise TimeoutError("the service took too long")


def found(name: str) -> Tool:
    named = get(name)
    assert named is not None
    return named


def call(**fields: Any) -> ToolCall:
    return ToolCall(run_id="r", call_id="c", user_id="u", tenant="t", idempotency_key="k", **fields)


@pytest.fixture(autouse=True)
def fresh() -> None:
    NOTED.clear()
    LEFT.clear()


async def test_a_tool_that_took_too_long_learns_of_it():
    """The caller goes on after the timeout; the thread sees `stopping` and ends."""
    with pytest.raises(TimeoutError):
        await found("test_patient").invoke({}, call())
    assert await asyncio.to_thread(LEFT.wait, 5)
    assert NOTED == ["stopped"]


async def test_a_cancelled_call_is_left_at_once_and_its_thread_learns_of_it():
    """As an abort does: the cancel comes through while the thread works."""
    work = asyncio.create_task(found("test_patient").invoke({}, call()))
    await asyncio.sleep(0.02)
    begun = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert time.monotonic() - begun < 0.5
    assert await asyncio.to_thread(LEFT.wait, 5)


async def test_a_run_that_is_being_stopped_is_seen_before_its_call_is_cancelled():
    """`stopping` of the run is `stopping` of its calls."""
    assert await found("test_patient").invoke({}, call(is_stopping=lambda: True)) == "too late"


async def test_a_tool_in_time_is_not_stopped():
    """Without a reason nothing says stop."""
    assert await found("test_patient").invoke({"steps": 1}, call()) == "done"


async def test_a_tool_cannot_end_more_than_itself():
    """`sys.exit` fails the call."""
    with pytest.raises(RuntimeError, match="SystemExit"):
        await found("test_exits").invoke({}, call())


@pytest.mark.parametrize("kind", ["no Exception", "StopIteration"])
async def test_a_failure_that_cannot_be_described_fails_the_call(kind: str):
    """Its caller goes on, and its thread's place is free again."""
    for _ in range(tool_threads.THREADS + 1):
        async with asyncio.timeout(20):
            with pytest.raises(RuntimeError, match="the tool raised"):
                await found("test_unreadable").invoke({"kind": kind}, call())


@pytest.mark.parametrize("kind", ["exit", "interrupt", "cancelled"])
async def test_an_async_tool_cannot_end_more_than_itself(kind: str):
    """What would end the run, or the loop with all runs, fails the call; a cancel from outside still stops it."""
    task = asyncio.ensure_future(found("test_async_wild").invoke({"kind": kind}, call()))
    with pytest.raises(RuntimeError, match="the tool"):
        await task
    waiting = asyncio.ensure_future(tools._contained(asyncio.sleep(60)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_tools_own_timeout_is_no_timeout_of_the_call():
    """The model is told what the tool said, not that it took too long."""
    with pytest.raises(RuntimeError, match="the service took too long"):
        await found("test_times_out").invoke({}, call())


async def test_threads_are_bounded_and_places_come_back(monkeypatch: pytest.MonkeyPatch):
    """More calls than places wait for their turn; all get one."""
    monkeypatch.setattr(tool_threads, "_places", {})
    monkeypatch.setattr(tool_threads, "THREADS", 2)
    at_once, most, lock = [0], [0], threading.Lock()

    def work() -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        with lock:
            at_once[0] -= 1

    await asyncio.gather(*(tool_threads.run_in_thread(work) for _ in range(8)))
    assert (at_once[0], most[0]) == (0, 2)
