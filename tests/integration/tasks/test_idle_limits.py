"""What counts as silence: an engine that waits for a tool or works in a step is at work; the error names the limit."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.settings import Settings
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from mainstem_tasks.testing import run_engine
from support.processes.in_process_worker import working

LIMIT_S = 0.4
AT_ONCE = 40


@engine("idle.works")
async def works(run: RunContext[dict[str, Any]]) -> None:
    """Emit nothing for thrice the limit, in the way that the input names."""
    match run.input["how"]:
        case "tool":
            await run.tool_call("c", "slow", {})
            await asyncio.sleep(3 * LIMIT_S)
            await run.tool_result("c", 1)
        case "step":
            async with run.step("slow"):
                await asyncio.sleep(3 * LIMIT_S)
        case "effect":
            await run.effect("slow", lambda _: threading.Event().wait(3 * LIMIT_S))
        case _:
            await run.tool_call("c", "fast", {})
            await run.tool_result("c", 1)
            await asyncio.sleep(60)


async def execute(settings: Settings, runs: AsyncRuns, run_input: dict[str, Any], **options: Any) -> Any:
    limited = settings.model_copy(update={"idle_timeout_s": LIMIT_S})
    async with working(limited) as runtime:
        run_id = (await runs.start("t", "idle.works", run_input, **options)).run_id
        await segments.execute(runtime, run_id, task_id="t")
    return await runs.get(run_id)


@pytest.mark.parametrize("how", ["tool", "step", "effect"])
async def test_what_is_under_way_is_no_silence(settings: Settings, runs: AsyncRuns, how: str):
    assert (await execute(settings, runs, {"how": how})).status == "succeeded"


async def test_silence_names_its_limit_and_how_to_raise_it(settings: Settings, runs: AsyncRuns):
    run = await execute(settings, runs, {"how": "silence"})
    assert run.reason == "timed_out"
    assert run.error.message.startswith(
        "The engine was stopped. It emitted nothing for more than 0.4 s: raise "
    )
    assert "MAINSTEM_IDLE_TIMEOUT_S" in run.error.message


async def test_a_tool_has_the_runs_own_limit(settings: Settings, runs: AsyncRuns):
    """A tool that never returns does not keep a run for ever."""
    run = await execute(settings, runs, {"how": "tool"}, max_duration_s=0.5)
    assert run.reason == "timed_out"
    assert "more than 0.5 s" in run.error.message
    assert "MAINSTEM_MAX_RUN_S" in run.error.message


async def test_blocking_calls_do_not_wait_for_each_other(settings: Settings):
    """More of them than a machine has cores run at once: each waits for all others."""
    barrier = threading.Barrier(AT_ONCE, timeout=20)
    async with working(settings):
        await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(AT_ONCE)))


async def test_call_ids_that_a_provider_repeats_are_made_unique():
    """A free id is kept; a repeated one, an empty one and a huge one are replaced, and each can be used."""

    async def repeats(run: RunContext[Any]) -> None:
        for raw in ("call_0", "call_0", "", "", "x" * 300, "call_0"):
            call_id = run.call_id(raw)
            await run.tool_call(call_id, "f", {})
            await run.tool_result(call_id, raw)

    run = await run_engine(engine("idle.repeats")(repeats))
    ids = [part["call_id"] for part in run.content]
    assert ids[:2] == ["call_0", "call_0_2"]
    assert ids[-1] == "call_0_3"
    assert len(set(ids)) == 6
    assert all(0 < len(call_id) <= 128 for call_id in ids)
