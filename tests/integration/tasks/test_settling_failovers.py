"""A store that goes back in time between any two commands by which a run's owner settles it: nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.model.runs import Run, Status
from mainstem_shared.operations import performing
from mainstem_shared.settings import Settings
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime, StopCause
from support.processes.in_process_worker import working
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

pytestmark = pytest.mark.timeout(60)
LOST = ["the claim", "the repair", "the last words"]


@dataclass
class Gates:
    """Where the engine waits for the test, and the test for the engine."""

    began: asyncio.Event = field(default_factory=asyncio.Event)
    speak: asyncio.Event = field(default_factory=asyncio.Event)
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    paid: int = 0


GATES: dict[str, Gates] = {}


@engine("settling", checkpoints=True)
async def settling(run: RunContext[dict[str, Any]]) -> None:
    """Say two words, then end as the thread is called; a continuation that knows them says the third."""
    gates = GATES[run.thread_id]
    if run.state is None and not run.decisions:
        await say_two_words(run, gates)
        await end_as(run, gates)
    await run.text(" three")


async def say_two_words(run: RunContext[dict[str, Any]], gates: Gates) -> None:
    gates.began.set()
    await gates.speak.wait()
    await run.text("one")
    await run.flush()
    gates.spoke.set()
    await gates.end.wait()
    await run.text(" two")


async def end_as(run: RunContext[dict[str, Any]], gates: Gates) -> None:
    match run.thread_id:
        case "pause":
            await run.request_approval([{"call_id": "c", "name": "f", "arguments": {}}], state=b"two words")
        case "checkpoint":
            await run.checkpoint(b"two words")
        case "effect":
            await run.effect("pay", lambda _: pay(gates))
        case "handover" if run.segment == 1:
            await run.checkpoint(b"two words")
            gates.ending.set()
            await asyncio.Event().wait()
        case _:
            pass


def pay(gates: Gates) -> int:
    gates.paid += 1
    return gates.paid


@dataclass
class Here:
    """A worker in this process, on a store that can go back."""

    server: ValkeyProcess
    runtime: Runtime
    runs: AsyncRuns
    marks: dict[str, int] = field(default_factory=dict[str, int])
    times: int = 0

    def losing(self, verb: Callable[..., Any], lost: str) -> Callable[..., Any]:
        """Return the verb, before whose first command the store loses so much."""

        async def performed(*args: Any, **options: Any) -> Any:
            if not self.times:
                self.times += 1
                await asyncio.to_thread(self.server.go_back, self.marks[lost])
            return await verb(*args, **options)

        return performed

    async def repaired(self, run_id: str, gates: Gates) -> None:
        """Lose what the run said, and wait until its owner has written it again."""
        await asyncio.wait_for(gates.began.wait(), 10)
        self.marks["the repair"] = self.server.written
        gates.speak.set()
        await asyncio.wait_for(gates.spoke.wait(), 10)
        channel = self.channel(run_id)
        first = channel.control
        await asyncio.to_thread(self.server.go_back, self.marks["the repair"])
        await wait_until_async(lambda: channel.control != first, description="a repair", timeout_s=20)
        await channel.flush()
        self.marks["the last words"] = self.server.written

    def channel(self, run_id: str) -> Channel:
        (channel,) = (one for one in self.runtime.writer._channels if one.control.run_id == run_id)
        return channel

    async def begun(self, thread: str) -> tuple[str, asyncio.Task[str], Gates]:
        """Begin a run that was repaired once, and waits for its `end`."""
        gates = GATES[thread] = Gates()
        run_id = (await self.runs.start(thread, "settling", {})).run_id
        self.marks["the claim"] = self.server.written
        task = self.execute(run_id)
        await self.repaired(run_id, gates)
        return run_id, task, gates

    def execute(self, run_id: str) -> asyncio.Task[str]:
        return asyncio.create_task(segments.execute(self.runtime, run_id, task_id="t"))


@pytest.fixture
async def here(private_valkey: ValkeyProcess) -> AsyncIterator[Here]:
    async with worker(private_valkey) as here:
        yield here


@asynccontextmanager
async def worker(server: ValkeyProcess) -> AsyncIterator[Here]:
    settings = Settings(redis_url=server.url(), broker_url=server.url(1), lease_s=3, sweep_s=0.5)
    async with working(settings) as runtime, AsyncRuns(settings) as runs:
        yield Here(server=server, runtime=runtime, runs=runs)


@pytest.mark.parametrize("lost", LOST)
async def test_a_fail_over_before_the_end_loses_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch, lost: str
):
    """Everything was flushed; then the store goes back, to before the last repair or the claim. The run completes."""
    run_id, task, gates = await here.begun("finish")
    monkeypatch.setattr(performing.FINISH, "verb", here.losing(performing.FINISH.verb, lost))
    gates.end.set()
    assert await task == "completed"
    run = await here.runs.get(run_id)
    assert (run.status, run.text, here.times) == (Status.SUCCEEDED, "one two three", 1)


async def test_a_fail_over_before_a_pause_loses_nothing(here: Here, monkeypatch: pytest.MonkeyPatch):
    """The action can be decided, and the run goes on from what it had said."""
    run_id, task, gates = await here.begun("pause")
    monkeypatch.setattr(performing.PAUSE, "verb", here.losing(performing.PAUSE.verb, "the repair"))
    gates.end.set()
    assert await task == "paused"
    run = await here.runs.get(run_id)
    assert (run.status, run.text, here.times) == (Status.REQUIRES_ACTION, "one two", 1)
    assert run.action is not None
    approve = [{"call_id": "c", "type": "approve"}]
    await here.runs.resume(run_id, action_id=run.action["action_id"], decisions=approve)
    assert await here.execute(run_id) == "completed"
    assert (await here.runs.get(run_id)).text == "one two three"


async def test_a_fail_over_before_a_hand_over_loses_nothing(here: Here, monkeypatch: pytest.MonkeyPatch):
    """Its checkpoint is gone with the repair: whoever goes on begins from what the store has, and says all of it."""
    run_id, task, gates = await here.begun("handover")
    monkeypatch.setattr(performing.HANDOVER, "verb", here.losing(performing.HANDOVER.verb, "the repair"))
    gates.end.set()
    await asyncio.wait_for(gates.ending.wait(), 10)
    here.runtime.segments[run_id].stop(StopCause.SHUTDOWN)
    assert await task == "handed over"
    assert await here.execute(run_id) == "completed"
    assert (await here.runs.get(run_id)).text == "one two three"
    assert here.times == 1


@pytest.mark.parametrize("verb", ["checkpoint", "effect"])
async def test_a_fail_over_before_what_an_engine_notes_loses_nothing(
    here: Here, monkeypatch: pytest.MonkeyPatch, verb: str
):
    """The engine is told nothing of it: no error, no second effect."""
    run_id, task, gates = await here.begun(verb)
    monkeypatch.setattr(transitions, verb, here.losing(getattr(transitions, verb), "the repair"))
    gates.end.set()
    assert await task == "completed"
    run = await here.runs.get(run_id)
    assert (run.status, run.text, here.times) == (Status.SUCCEEDED, "one two three", 1)
    assert gates.paid == int(verb == "effect")


async def test_a_fail_over_after_the_end_loses_no_repair(here: Here):
    """The end was made from the control that a repair opened: both are made again, in their order."""
    run_id, task, gates = await here.begun("ended")
    gates.end.set()
    assert await task == "completed"
    await asyncio.to_thread(here.server.go_back, here.marks["the claim"])
    run = await wait_until_async(lambda: _over(here, run_id), description="the end again", timeout_s=20)
    assert (run.status, run.text) == (Status.SUCCEEDED, "one two three")


async def _over(here: Here, run_id: str) -> Run | None:
    try:
        run = await here.runs.get(run_id)
    except errors.StoreUnavailable:
        return None
    return run if run.status.is_terminal else None
