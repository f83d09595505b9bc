"""`RunContext`: what each call puts into the log, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mainstem_shared import errors
from mainstem_shared.eventlog.writing.channels import Channel as WriterChannel
from mainstem_shared.model import contents
from mainstem_shared.model.actions import Decision
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import CONTENT_LIMIT, EVENT_LIMIT
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import Engine
from mainstem_tasks.testing import EngineRun, MemoryChannel, run_engine

Body = Callable[[RunContext[Any]], Awaitable[None]]


def unregistered(body: Body) -> Engine:
    return Engine(name="t", function=body, source=body, input_model=None, checkpoints=False, aclose=None)


async def ran(body: Body, **options: Any) -> EngineRun:
    """Run a body that no registry knows."""
    return await run_engine(unregistered(body), **options)


def test_a_workers_channel_is_a_channel():
    """What engines are tested with and what they run on offer the same."""
    for name in ("text", "emit", "congested", "drained", "flush"):
        assert hasattr(WriterChannel, name)
        assert hasattr(MemoryChannel, name)
    memory: Channel = MemoryChannel()
    assert memory.fold.text == ""


async def test_text_and_reasoning_become_parts():
    """A part goes on until another kind begins; empty pieces are nothing."""

    async def body(run: RunContext[Any]) -> None:
        for piece in ("a", "", "b"):
            await run.text(piece)
        await run.reasoning("hm")
        await run.text("c")

    result = await ran(body)
    assert result.content == [
        {"type": "text", "text": "ab"},
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "c"},
    ]
    assert result.text == "abc"
    assert [event.type for event in result.events] == ["message.delta"] * 2 + [
        "reasoning.delta",
        "message.delta",
    ]


async def test_a_tool_call_streams_its_arguments_and_gets_its_result():
    """Streamed text is replaced by the parsed object; the step keeps the time it began at."""

    async def body(run: RunContext[Any]) -> None:
        await run.tool_call_start("c1", "search")
        await run.tool_call_delta("c1", '{"q":')
        await run.tool_call_delta("c1", "1}")
        await run.tool_call("c1", "search", {"q": 1})
        await run.tool_result("c1", ["hit"])
        await run.tool_call("c2", "send", {})
        await run.tool_result("c2", "no route", failed=True)

    result = await ran(body)
    assert result.content == [
        {
            "type": "tool_call",
            "call_id": "c1",
            "name": "search",
            "arguments": {"q": 1},
            "result": ["hit"],
            "state": "completed",
        },
        {
            "type": "tool_call",
            "call_id": "c2",
            "name": "send",
            "arguments": {},
            "result": "no route",
            "state": "failed",
        },
    ]
    begun, again, _ = result.payloads("step.started")
    assert begun["at"] == again["at"]
    assert begun["arguments"] == ""
    assert [step["state"] for step in result.fold.steps] == ["completed", "failed"]


async def test_a_tool_call_waits_until_the_log_has_it():
    """When `tool_call` returns, the call is durable: a side effect never happens without its trace."""
    flushed: list[int] = []

    class Watched(MemoryChannel):
        async def flush(self) -> Cursor:
            flushed.append(len(self.events))
            return await super().flush()

    async def body(run: RunContext[Any]) -> None:
        await run.text("x")
        assert flushed == []
        await run.tool_call("c1", "send", {})
        assert flushed == [2]

    await ran(body, channel=Watched())


@pytest.mark.parametrize("call", ["delta", "result"])
async def test_a_call_that_is_not_open_is_refused(call: str):
    """A result for a call that never began, or has one already, is the engine's mistake and shows there."""

    async def body(run: RunContext[Any]) -> None:
        if call == "delta":
            await run.tool_call_delta("c1", "x")
        else:
            await run.tool_result("c1", 1)

    result = await ran(body, check=False)
    assert isinstance(result.error, ValueError)
    assert "'c1'" in str(result.error)
    assert result.events == []


async def test_a_call_id_is_used_once():
    """A second call of the same id would overwrite the first one's result."""

    async def body(run: RunContext[Any]) -> None:
        await run.tool_call("c1", "send", {})
        await run.tool_result("c1", 1)
        await run.tool_call("c1", "send", {})

    with pytest.raises(ValueError, match="its own id"):
        await ran(body)


async def test_a_continuation_knows_the_calls_of_earlier_segments():
    """A call that is still open gets its result in a later segment; an answered one stays answered."""

    async def first(run: RunContext[Any]) -> None:
        await run.tool_call("open", "a", {})
        await run.tool_call("done", "b", {})
        await run.tool_result("done", 1)

    async def second(run: RunContext[Any]) -> None:
        await run.tool_result("open", 2)
        with pytest.raises(ValueError, match="its own id"):
            await run.tool_call("done", "b", {})

    before = await ran(first)
    fold = Content()
    fold.load(before.fold.dump())
    after = await ran(second, channel=MemoryChannel(fold, epoch=4), segment=2)
    assert [part["result"] for part in after.content] == [2, 1]


async def test_a_step_ends_as_its_block_ends():
    """Completed, failed or aborted; the block's own exception comes out, and each step has its own id."""

    async def body(run: RunContext[Any]) -> None:
        async with run.step("same name"), run.step("same name"):
            pass
        with pytest.raises(KeyError):
            async with run.step("fails"):
                raise KeyError
        with pytest.raises(asyncio.CancelledError):
            async with run.step("is stopped"):
                raise asyncio.CancelledError

    result = await ran(body)
    assert [step["state"] for step in result.fold.steps] == ["completed", "completed", "failed", "aborted"]
    assert len({step["step_id"] for step in result.fold.steps}) == 4
    again = await ran(body, segment=2)
    assert not {s["step_id"] for s in again.fold.steps} & {s["step_id"] for s in result.fold.steps}


async def test_a_step_whose_run_is_over_does_not_hide_why_its_block_ended():
    """The exception that left the block comes out, not the channel's refusal to note it."""
    channel = MemoryChannel()

    async def body(run: RunContext[Any]) -> None:
        async with run.step("s"):
            channel.closed = True
            raise KeyError("the cause")

    with pytest.raises(KeyError, match="the cause"):
        await ran(body, channel=channel)


async def test_usage_adds_up_over_calls_and_segments():
    """Each event carries the totals so far; a continuation goes on from them."""

    async def body(run: RunContext[Any]) -> None:
        await run.usage(input_tokens=10, output_tokens=2, cached_input_tokens=4)
        await run.usage(input_tokens=1, output_tokens=1, total_tokens=5, reasoning_tokens=1)

    first = await ran(body)
    told = first.payloads("usage")[-1]
    assert {
        "input_tokens": 11,
        "output_tokens": 3,
        "total_tokens": 17,
        "cached_input_tokens": 4,
        "reasoning_tokens": 1,
    }.items() <= told.items()
    assert first.usage is not None
    assert [call.total_tokens for call in first.usage.calls] == [12, 5]
    second = await ran(body, channel=MemoryChannel(first.fold))
    assert second.usage is not None
    assert (second.usage.total_tokens, len(second.usage.calls)) == (34, 4)
    assert [model.calls for model in second.usage.models] == [4]


async def test_what_is_about_the_run():
    """Title, agent and context usage stay in the state; custom events only pass."""

    async def body(run: RunContext[Any]) -> None:
        await run.title("Trees")
        await run.agent("writer", model="m")
        await run.context_usage(used_tokens=5, max_tokens=10)
        await run.custom("mine", {"a": 1})

    result = await ran(body)
    assert result.fold.title == "Trees"
    assert result.fold.extra == {
        "agent": {"name": "writer", "model": "m"},
        "context_usage": {"used_tokens": 5, "max_tokens": 10},
    }
    assert result.payloads("custom") == [{"name": "mine", "data": {"a": 1}}]


async def test_events_read_back_fold_to_the_same_content():
    """A reader of the events alone reaches what the engine's side has."""

    async def body(run: RunContext[Any]) -> None:
        await run.reasoning("why")
        await run.text("because")
        await run.tool_call("c", "t", {"x": [1]})
        async with run.step("s"):
            await run.text("…")

    result = await ran(body)
    assert contents.fold(result.events).dump() == result.fold.dump()


async def test_a_checkpoint_covers_what_was_emitted_before_it():
    """Everything is flushed first, and the saved state names the cursor that it covers."""
    saved: list[tuple[bytes, Cursor]] = []

    async def save(state: bytes, covers: Cursor, _: object) -> bool:
        saved.append((state, covers))
        return True

    run = RunContext[Any](
        MemoryChannel(epoch=2),
        run_id="r",
        thread_id="t",
        user_id="u",
        tenant="d",
        input={},
        raw_input={},
        metadata={},
        save=save,
    )
    await run.text("a")
    await run.text("b")
    await run.checkpoint(b"\x01state")
    assert saved == [(b"\x01state", Cursor(2, 2))]


async def test_a_continuation_sees_state_and_decisions():
    """`run.state` is the last checkpoint, `run.decisions` what a human decided."""
    decided = {"c1": Decision(id="c1", type="approve")}

    async def body(run: RunContext[Any]) -> None:
        assert (run.state, run.decisions, run.segment) == (b"s", decided, 2)
        await run.checkpoint(b"newer")

    result = await ran(body, state=b"s", decisions=decided, segment=2)
    assert result.checkpoint == b"newer"


async def test_idempotency_keys_are_the_same_in_every_segment():
    """One key per run and call, whatever segment asks; short, and without the ids in it."""
    keys: list[str] = []

    async def body(run: RunContext[Any]) -> None:
        keys.extend([run.idempotency_key("c1"), run.idempotency_key("c2")])

    await ran(body, run_id="run-a", segment=1)
    await ran(body, run_id="run-a", segment=2)
    await ran(body, run_id="run-b")
    a1, a2, again1, again2, b1, _ = keys
    assert (a1, a2) == (again1, again2)
    assert len({a1, a2, b1}) == 3
    assert len(a1) == 35
    assert "run-a" not in a1


async def test_limits_of_the_log_hold():
    """An event of 256 KB and a content of 8 MB are too much, and say so."""

    async def large_event(run: RunContext[Any]) -> None:
        await run.custom("big", "x" * EVENT_LIMIT)

    async def large_content(run: RunContext[Any]) -> None:
        while True:
            await run.text("x" * (CONTENT_LIMIT // 16))

    with pytest.raises(errors.EventTooLarge):
        await ran(large_event)
    with pytest.raises(errors.ContentTooLarge):
        await ran(large_content)


async def test_what_json_cannot_hold_is_refused_where_it_is_emitted():
    """The engine's mistake is raised by the call that makes it; nothing half-written stays."""

    async def body(run: RunContext[Any]) -> None:
        await run.tool_call("c", "t", {"x": object()})

    result = await ran(body, check=False)
    assert isinstance(result.error, (TypeError, ValueError))
    assert result.events == []


async def test_an_engine_waits_while_the_channel_is_congested():
    """Back-pressure: an emitting call returns when there is room again."""
    room = asyncio.Event()

    class Congested(MemoryChannel):
        @property
        def congested(self) -> bool:
            return not room.is_set()

        async def drained(self) -> None:
            await room.wait()

    channel = Congested()

    async def body(run: RunContext[Any]) -> None:
        await run.text("a")
        await run.text("b")

    running = asyncio.create_task(ran(body, channel=channel))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert channel.fold.text == "a"
    room.set()
    assert (await running).text == "ab"


async def test_an_engine_that_never_waits_leaves_the_loop_to_others():
    """Emitting alone yields now and then, so a busy engine can be stopped and others run."""

    async def other() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def body(run: RunContext[Any]) -> None:
        while True:
            await run.custom("busy")

    busy = asyncio.create_task(ran(body))
    try:
        await asyncio.wait_for(other(), timeout=10)
    finally:
        busy.cancel()
        await asyncio.wait({busy})
    assert busy.cancelled()


async def test_nothing_is_emitted_after_the_end():
    """A stray subtask of a finished engine is refused."""
    runs: list[RunContext[Any]] = []

    async def body(run: RunContext[Any]) -> None:
        runs.append(run)

    result = await ran(body)
    with pytest.raises(errors.ChannelClosed):
        await runs[0].text("late")
    assert result.events == []
