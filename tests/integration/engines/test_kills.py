"""Agents of all frameworks whose workers die at a write: content, state and effects stand at the same point.

With MAINSTEM_KILLED each death is that of a process, by the kernel, at each write, those of events included
(`make effects`). Otherwise a worker's commands end in this process, and some of them stand for all.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Run, Status
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk import tools
from support.engines import builtin_engines, ordering_agents
from support.fakes.strict_provider import StrictProvider
from support.paths import TESTS
from support.processes import dying_agents, dying_worker
from support.processes.in_process_worker import working

KILLED = bool(os.environ.get("MAINSTEM_KILLED"))
COLUMNS = sorted({*ordering_agents.SERVE, *builtin_engines.ENGINES})
STEP = 1 if KILLED else 9
"""Of so many writes one is a worker's last; each engine begins with another one."""
MOST_WRITES = 300


@dataclass(frozen=True, kw_only=True)
class Orders:
    """An agent that orders, what executes its runs, and what its receiver got."""

    column: str
    runs: AsyncRuns
    store: Store
    settings: Settings
    given: dict[str, str]
    worker: Runtime
    provider: StrictProvider
    receiver: Any

    async def start(self, thread: str, text: str) -> str:
        engine = builtin_engines.ENGINES.get(self.column, self.column)
        said = ordering_agents.asked(self.column, text)
        return (await self.runs.start(thread, engine, said, on_worker_lost="resume")).run_id

    async def dies(self, run_id: str, writes: int) -> bool:
        """Have a worker execute a run that dies in place of the write after so many; False if it lives on."""
        if not KILLED:
            return not await dying_worker.dies(self.settings, run_id, after=writes)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([dying_agents.__name__])
        child = context.Process(
            target=dying_agents.execute_and_be_killed,
            args=(self.column, self.given, self.provider.url, run_id, writes),
            daemon=True,
        )
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode in (0, -9), child.exitcode
        return child.exitcode != 0

    async def goes_on(self, run_id: str) -> Run:
        """Let the fleet find what was left, and another worker execute it until it is over, or waits."""
        for _ in range(3):
            run = await self.runs.get(run_id)
            if run.status.is_terminal or run.status is Status.REQUIRES_ACTION:
                return run
            await dying_worker.take_over(self.store, self.worker.operations, run_id)
            await segments.execute(self.worker, run_id, task_id="t")
        return await self.runs.get(run_id)

    async def approve(self, run: Run) -> None:
        assert run.action is not None
        decided = [{"call_id": call["call_id"], "type": "approve"} for call in run.action["calls"]]
        await self.runs.resume(run.run_id, run.action["action_id"], decisions=decided)

    def received(self) -> list[int]:
        """Return how often each order came; they are forgotten."""
        found = [int(times) for times in self.receiver.hvals("orders")]
        self.receiver.delete("orders")
        return found


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictProvider]:
    """One provider for all agents of the module."""
    with StrictProvider() as provider:
        yield provider


@pytest.fixture(params=COLUMNS)
async def orders(
    request: pytest.FixtureRequest,
    strict: StrictProvider,
    runs: AsyncRuns,
    store: Store,
    settings: Settings,
    store_url: str,
    broker_url: str,
    closing_clients: None,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Orders]:
    """An agent of each framework. In the end the provider has refused no history."""
    strict.clear()
    receiver_url = store_url.rpartition("/")[0] + "/2"
    monkeypatch.setenv(ordering_agents.RECEIVER, receiver_url)
    monkeypatch.setenv(
        "PYTHONPATH", str(TESTS)
    )  # where Python 3.11 looks for what a server of forks preloads
    monkeypatch.setattr(tools, "_tools", {})
    settings = dying_agents.serve(request.param, settings, strict.url)
    async with working(settings) as worker:
        with redis.Redis.from_url(receiver_url) as receiver:
            yield Orders(
                column=request.param,
                runs=runs,
                store=store,
                settings=settings,
                given={"redis_url": store_url, "broker_url": broker_url},
                worker=worker,
                provider=strict,
                receiver=receiver,
            )
        dead = set(await store.client.zrange(keys.WORKERS, 0, -1)) - {worker.lease.owner.encode()}
        await store.client.delete(*(keys.lease(owner.decode()) for owner in dead))
        await dying_worker.sweep(settings, store, worker.operations)  # what the dead had
    assert strict.faults == []


def writes_of(column: str) -> range:
    return range(COLUMNS.index(column) % STEP, MOST_WRITES, STEP)


async def check(orders: Orders, thread: str, run: Run, *, turns: int = 1) -> None:
    """All was said once, the order came, at most twice, under one key; the next turn is accepted."""
    assert run.status is Status.SUCCEEDED, (run.reason, run.error)
    assert [part["type"] for part in run.content] == ["text", "tool_call", "text"]
    before, call, after = run.content
    assert (call["name"], call["state"], call["result"]) == ("order", "completed", "tea is on its way")
    assert before["text"].strip() == "I will call."
    assert after["text"] == f"Tools said tea is on its way. [{turns} user turns]"
    assert orders.received() in ([1], [2]), "executed is what was intended"
    again = await orders.start(thread, "hello")
    await segments.execute(orders.worker, again, task_id="t")
    assert (await orders.runs.get(again)).text == f"[{turns + 1} user turns]"


async def test_before_a_pause(orders: Orders):
    """Killed at any write up to the pause: a human is asked once, and once it is decided, the order is made."""
    for writes in writes_of(orders.column):
        thread = f"asking {writes}"
        run_id = await orders.start(thread, "order")
        died = await orders.dies(run_id, writes)
        paused = await orders.goes_on(run_id)
        assert paused.status is Status.REQUIRES_ACTION, (paused.reason, paused.error)
        assert orders.received() == []
        await orders.approve(paused)
        await check(orders, thread, await orders.goes_on(run_id))
        if not died:
            break
    assert not died
    assert writes > 5


async def test_after_the_decision(orders: Orders):
    """Killed at any write after that: the call runs to its end, once to all who see it, under one key.

    The run is the thread's second: whoever goes on has what was said before it, too.
    """
    for writes in writes_of(orders.column):
        thread = f"ordering {writes}"
        await segments.execute(orders.worker, await orders.start(thread, "hello"), task_id="t")
        run_id = await orders.start(thread, "order")
        await orders.approve(await orders.goes_on(run_id))
        died = await orders.dies(run_id, writes)
        await check(orders, thread, await orders.goes_on(run_id), turns=2)
        if not died:
            break
    assert not died
    assert writes > 5
