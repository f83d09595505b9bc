"""A store that goes back in time while its workers and web tiers live on: what somebody was told stays so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model.runs import Reason, Run, Status
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from support.processes.in_process_worker import working
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

pytestmark = pytest.mark.timeout(90)
GATE: dict[str, asyncio.Event] = {}


@engine("history.words")
async def words(run: RunContext[dict[str, Any]]) -> None:
    """Say something, wait until the test lets it go on, and say the rest."""
    await run.text("before ")
    await run.flush()
    await GATE[run.thread_id].wait()
    await run.text("and after")


@engine("history.asks")
async def asks(run: RunContext[dict[str, Any]]) -> None:
    """Say something and ask a human about it; then be done."""
    if not run.decisions:
        await run.text("may I?")
        await run.flush()
        await GATE[run.thread_id].wait()
        await run.request_approval([{"call_id": "c", "name": "f", "arguments": {}}])
    await run.text(" done")


class Fleet:
    """A worker and a web tier as the gateway has it, in this process, on a store that can go back."""

    def __init__(
        self, server: ValkeyProcess, runtime: Runtime, runs: AsyncRuns, operations: Operations
    ) -> None:
        self.server, self.runtime, self.runs, self.operations = server, runtime, runs, operations
        self.tasks: list[asyncio.Task[str]] = []

    async def start(self, thread: str, name: str) -> str:
        GATE[thread] = asyncio.Event()
        return (await self.runs.start(thread, name)).run_id

    def execute(self, run_id: str) -> asyncio.Task[str]:
        task = asyncio.create_task(segments.execute(self.runtime, run_id, task_id="t"))
        self.tasks.append(task)
        return task

    async def has(self, run_id: str, status: Status) -> Run:
        return await wait_until_async(
            lambda: self._is(run_id, status), description=f"{status.value}", timeout_s=20
        )

    async def _is(self, run_id: str, status: Status) -> Run | None:
        try:
            run = await self.runs.get(run_id)
        except (errors.StoreUnavailable, errors.NotFound):
            return None
        return run if run.status is status else None

    async def go_back(self, mark: int) -> None:
        await asyncio.to_thread(self.server.go_back, mark)


@pytest.fixture
async def fleet(private_valkey: ValkeyProcess) -> AsyncIterator[Fleet]:
    url = private_valkey.url()
    settings = Settings(redis_url=url, broker_url=private_valkey.url(1), lease_s=3, sweep_s=0.5)
    async with working(settings) as runtime, _web_tier(settings) as (runs, operations):
        fleet = Fleet(private_valkey, runtime, runs, operations)
        yield fleet
        for task in fleet.tasks:
            task.cancel()
        await asyncio.gather(*fleet.tasks, return_exceptions=True)


@asynccontextmanager
async def _web_tier(settings: Settings) -> AsyncIterator[tuple[AsyncRuns, Operations]]:
    """Make what a gateway has: runs, and somebody who looks after their history."""
    store, publisher = (
        Store(endpoints.store_url(settings)),
        CeleryPublisher(endpoints.broker_url(settings), queue=settings.queue),
    )
    operations = Operations(store=store, settings=settings, publisher=publisher)
    await operations.recent_changes.begin()
    watching = asyncio.create_task(operations.recent_changes.run())
    async with AsyncRuns(settings, store=store, publisher=publisher, operations=operations) as runs:
        yield runs, operations
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await publisher.aclose()
    await store.close()


async def stays(fleet: Fleet, run_id: str, status: Status) -> Run:
    """Wait until the run is so again, and for two sweeps and a lease more: nobody judges it otherwise."""
    await fleet.has(run_id, status)
    await asyncio.sleep(4)
    return await fleet.has(run_id, status)


@pytest.mark.parametrize("since", ["the claim", "the start"])
async def test_a_run_that_clients_saw_succeed_has_succeeded(fleet: Fleet, since: str):
    """The end is lost, or the claim too: its worker ends it again, with everything it said."""
    run_id = await fleet.start("ends", "history.words")
    mark = fleet.server.written
    task = fleet.execute(run_id)
    if since == "the claim":
        await wait_until_async(lambda: _text(fleet, run_id), description="the first words")
        mark = fleet.server.written
    GATE["ends"].set()
    await task
    before = await fleet.has(run_id, Status.SUCCEEDED)
    await fleet.go_back(mark)
    run = await stays(fleet, run_id, Status.SUCCEEDED)
    assert (run.text, run.reason) == (before.text, Reason.COMPLETED) == ("before and after", Reason.COMPLETED)
    assert fleet.runtime.operations.recent_changes.repeated >= 1


async def _text(fleet: Fleet, run_id: str) -> str:
    return (await fleet.runs.get(run_id)).text


async def test_a_run_at_work_goes_on_although_its_claim_was_lost(fleet: Fleet):
    """Its worker claims it again before it asks what the log has; nobody else gets it."""
    run_id = await fleet.start("works", "history.words")
    mark = fleet.server.written
    task = fleet.execute(run_id)
    await wait_until_async(lambda: _text(fleet, run_id), description="the first words")
    await fleet.go_back(mark)
    await fleet.has(run_id, Status.RUNNING)
    GATE["works"].set()
    assert await task == "completed"
    assert (await stays(fleet, run_id, Status.SUCCEEDED)).text == "before and after"


async def test_a_pause_is_made_again(fleet: Fleet):
    """The action keeps its id, so that what a client saw can still be decided."""
    run_id = await fleet.start("pauses", "history.asks")
    task = fleet.execute(run_id)
    await wait_until_async(lambda: _text(fleet, run_id), description="the question")
    mark = fleet.server.written
    GATE["pauses"].set()
    await task
    before = await fleet.has(run_id, Status.REQUIRES_ACTION)
    await fleet.go_back(mark)
    run = await stays(fleet, run_id, Status.REQUIRES_ACTION)
    assert run.action is not None
    assert run.action == before.action
    assert run.text == "may I?"


async def test_a_decision_and_what_followed_are_made_again(fleet: Fleet):
    """Pause, decision, continuation and end, by two processes: each makes its own again, in their order."""
    run_id = await fleet.start("decided", "history.asks")
    task = fleet.execute(run_id)
    await wait_until_async(lambda: _text(fleet, run_id), description="the question")
    mark = fleet.server.written
    GATE["decided"].set()
    await task
    asked = (await fleet.has(run_id, Status.REQUIRES_ACTION)).action
    assert asked is not None
    approve = [{"call_id": "c", "type": "approve"}]
    await fleet.runs.resume(run_id, action_id=asked["action_id"], decisions=approve)
    await fleet.execute(run_id)
    await fleet.has(run_id, Status.SUCCEEDED)
    await fleet.go_back(mark)
    assert (await stays(fleet, run_id, Status.SUCCEEDED)).text == "may I? done"


async def aborted(fleet: Fleet, run_id: str) -> None:
    await fleet.runs.abort(run_id)


async def deleted(fleet: Fleet, run_id: str) -> None:
    del run_id
    await Deleter(aborter=fleet.runs._aborter).delete_thread("queued", tenant="default", user_id=None)


@pytest.mark.parametrize("what", [aborted, deleted])
async def test_what_a_web_tier_did_it_does_again(fleet: Fleet, what: Callable[[Fleet, str], Awaitable[None]]):
    """A run that was aborted, or deleted, is not executed after all; what was deleted does not come back."""
    run_id = await fleet.start("queued", "history.words")
    mark = fleet.server.written
    await what(fleet, run_id)
    await fleet.go_back(mark)
    await asyncio.sleep(1)
    GATE["queued"].set()
    await fleet.execute(run_id)
    if what is aborted:
        assert (await stays(fleet, run_id, Status.ABORTED)).text == ""
    else:
        with pytest.raises(errors.NotFound):
            await fleet.runs.get(run_id)


async def test_a_server_that_only_restarted_is_asked_for_nothing_again(fleet: Fleet):
    """Nothing was lost: nothing is repeated."""
    run_id = await fleet.start("kept", "history.words")
    GATE["kept"].set()
    await fleet.execute(run_id)
    before = await fleet.has(run_id, Status.SUCCEEDED)
    await asyncio.to_thread(fleet.server.restart)
    assert await stays(fleet, run_id, Status.SUCCEEDED) == before
    assert fleet.runtime.operations.recent_changes.repeated == 0
