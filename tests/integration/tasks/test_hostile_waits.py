"""Times and names that no wait can have: the engine gets the error at its call, and the run ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Reason, Run, Status
from mainstem_shared.settings import Settings
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.processes.in_process_worker import working

Context = RunContext[dict[str, Any]]
CALL = {"call_id": "c", "name": "t", "arguments": {}}
CHILD = f"{'a' * 16}_{'a' * 26}"

NEVER = {"nan": float("nan"), "inf": float("inf"), "no_calendar": 1e12, "no_float": 1e308}
TIMED: dict[str, Callable[[Context, float], Awaitable[Any]]] = {
    "sleep": lambda run, seconds: run.sleep(seconds),
    "wait_event": lambda run, seconds: run.wait_event("e", timeout_s=seconds),
    "lookback": lambda run, seconds: run.wait_event("e", lookback_s=seconds),
    "wait_children": lambda run, seconds: run.wait_children([CHILD], timeout_s=seconds),
    "approval": lambda run, seconds: run.request_approval([CALL], window_s=seconds),
    "ask": lambda run, seconds: run.ask(["?"], window_s=seconds),
    "interrupt": lambda run, seconds: run.interrupt([{"id": "i", "type": "data"}], window_s=seconds),
}
NAMED: dict[str, Callable[[Context], Awaitable[Any]]] = {
    "a time that no calendar has": lambda run: run.sleep(datetime.max),  # noqa: DTZ901 - without a zone it is UTC
    "the last year": lambda run: run.sleep(datetime(9999, 1, 1, tzinfo=UTC)),
    "an event of half a character": lambda run: run.wait_event("\ud800"),
    "an event without a name": lambda run: run.wait_event(""),
    "a wait of half a character": lambda run: run.sleep(5, key="\ud800"),
    "a child of half a character": lambda run: run.wait_children(["\ud800"]),
    "a child that is none": lambda run: run.wait_children(["../x"]),
    "half a key": lambda run: run.memory.put("\ud800", b""),
    "an effect of half a character": lambda run: run.effect("\ud800", lambda _: 1),
}


@engine("waits_oddly")
async def waits_oddly(run: Context) -> None:
    """Wait as the input says."""
    await run.text("word")
    if (seconds := run.input.get("seconds")) is not None:
        await TIMED[run.input["way"]](run, {**NEVER, "past": -1e10}[seconds])
    else:
        await NAMED[run.input["way"]](run)


async def outcomes(runs: AsyncRuns, settings: Settings, inputs: list[dict[str, Any]]) -> list[Run]:
    """Execute a run with each input; each must be settled when its task is over."""
    found: list[Run] = []
    async with working(settings) as here:
        for number, run_input in enumerate(inputs):
            run_id = (await runs.start(f"t{number}", "waits_oddly", run_input)).run_id
            await asyncio.wait_for(segments.execute(here, run_id, task_id="t"), 60)
            found.append(await runs.get(run_id))
    return found


def assert_refused(run: Run, named: Any) -> None:
    assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.ENGINE_ERROR, "word"), named
    assert run.error is not None
    assert "Error" in run.error.message.split(":")[0], (named, run.error.message)


@pytest.mark.parametrize("way", TIMED)
async def test_no_run_waits_for_ever(runs: AsyncRuns, settings: Settings, way: str):
    """No number, no end, and more than a hundred years are the engine's error."""
    for seconds, run in zip(
        NEVER, await outcomes(runs, settings, [{"way": way, "seconds": name} for name in NEVER]), strict=True
    ):
        assert_refused(run, seconds)


async def test_what_was_due_long_ago_is_due_now(runs: AsyncRuns, settings: Settings):
    """A negative time is none at all: a sleep is over, and whoever is asked has no time to answer."""
    asleep, *others = await outcomes(runs, settings, [{"way": way, "seconds": "past"} for way in TIMED])
    assert (asleep.status, asleep.text) == (Status.SUCCEEDED, "word")
    for run in others:  # a sweep may have been quicker than this look
        assert run.reason is not Reason.ENGINE_ERROR
        assert run.action is None or str(run.action["expires_at"]) >= run.created_at.isoformat()[:16]


async def test_what_cannot_be_named_is_refused(runs: AsyncRuns, settings: Settings):
    """Where the name is given, by the engine's error; never at the end, by what remains to be done."""
    for way, run in zip(NAMED, await outcomes(runs, settings, [{"way": way} for way in NAMED]), strict=True):
        assert_refused(run, way)


async def test_nobody_is_waited_for_in_vain(
    runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """Without children there is nothing to wait for: the list is empty at once."""

    async def nobody(run: Context) -> None:
        assert await run.wait_children([]) == []

    monkeypatch.setitem(NAMED, "nobody", nobody)
    (run,) = await outcomes(runs, settings, [{"way": "nobody"}])
    assert run.status is Status.SUCCEEDED
