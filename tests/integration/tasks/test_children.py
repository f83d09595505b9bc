"""Children: runs of their own, started once, joined without a worker, and stopped with their parent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import children
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from support.processes import dying_worker
from support.processes.in_process_worker import working


@engine("children.parent", checkpoints=True)
async def parent(run: RunContext[dict[str, Any]]) -> None:
    """Fan out to as many children as the input says, join them, and add up what they say."""
    started = [
        await run.start_child("children.child", {"n": n}, key=f"{n}", on_worker_lost="resume")
        for n in range(run.input["children"])
    ]
    outcomes = await run.wait_children(started, key="all")
    await run.text(" ".join(f"{one['status']}:{one['text']}" for one in outcomes))


@engine("children.child")
async def child(run: RunContext[dict[str, Any]]) -> None:
    """Say a number; an odd one fails if the parent's test wants that."""
    await run.text(str(run.input["n"]))
    if run.input["n"] == 1:
        raise RuntimeError("as expected")


@engine("children.spending", checkpoints=True)
async def spending(run: RunContext[dict[str, Any]]) -> None:
    """Fan out to children with a budget each, and say why each ended."""
    started = [
        await run.start_child(
            "children.spender", {"tokens": 5 + n % 2 * 50}, key=f"{n}", budget={"tokens": 20}
        )
        for n in range(run.input["children"])
    ]
    outcomes = await run.wait_children(started, key="all")
    await run.text(" ".join(str(one["reason"]) for one in outcomes))


@engine("children.spender")
async def spender(run: RunContext[dict[str, Any]]) -> None:
    """Call a provider once, if the budget has room."""
    asked = run.input["tokens"]
    async with run.provider_call(model="m", input_tokens=asked, max_output_tokens=1) as call:
        await call.used(input_tokens=asked, output_tokens=1)


async def children_of(store: Store, run_id: str) -> list[str]:
    return sorted(raw.decode() for raw in await store.client.smembers(keys.run_children(run_id)))


async def test_a_parent_fans_out_and_joins(settings: Settings, runs: AsyncRuns, store: Store):
    """Its task ends meanwhile; it is told what became of each, in its own order; listings name the parent."""
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "children.parent", {"children": 3})).run_id
        assert await segments.execute(runtime, run_id, task_id="t") == segments.PAUSED
        waiting = await runs.get(run_id)
        assert waiting.action is not None
        assert waiting.action["kind"] == "children"
        started = waiting.action["runs"]
        assert sorted(started) == await children_of(store, run_id)
        assert [part["value"]["run_id"] for part in waiting.content if part["type"] == "data"] == started
        for one in started:
            assert (await runs.get(run_id)).status is Status.REQUIRES_ACTION
            await segments.execute(runtime, one, task_id="t")
        await segments.execute(runtime, run_id, task_id="t")
    assert (await runs.get(run_id)).text == "succeeded:0 failed:1 succeeded:2"
    listed = {run.run_id: run.parent_run for run in (await runs.list()).runs}
    assert listed == {run_id: None, **dict.fromkeys(started, run_id)}


async def test_wherever_its_worker_dies_each_child_is_one_run(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """After each command of the parent's worker: two children, no more, and the parent joins them."""
    for commands in range(80):
        started = await runs.start(
            f"t{commands}", "children.parent", {"children": 2}, on_worker_lost="resume"
        )
        survived = await dying_worker.dies(settings, started.run_id, after=commands)
        async with working(settings) as runtime:
            for _ in range(4):
                await dying_worker.sweep(settings, store, runtime.operations)
                for run_id in (started.run_id, *await children_of(store, started.run_id)):
                    await segments.execute(runtime, run_id, task_id="t")
            run = await runs.get(started.run_id)
            assert run.text == "succeeded:0 failed:1"
            assert len(await children_of(store, started.run_id)) == 2
        if survived:
            assert commands > 8, "it died nowhere"
            return
        await store.client.flushdb()
    raise AssertionError("it never came to its end")


async def test_an_abort_goes_down(settings: Settings, runs: AsyncRuns, store: Store):
    """Of 50 children some are over, some run, some wait: all are settled, and so is the parent."""
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "children.parent", {"children": 50})).run_id
        await segments.execute(runtime, run_id, task_id="t")
        started = await children_of(store, run_id)
        for one in started[:5]:
            await segments.execute(runtime, one, task_id="t")
        await Aborter(operations=runtime.operations, sealer=lambda: runtime.lease.owner).abort(run_id)
        ended = await asyncio.gather(*(runs.get(one) for one in (run_id, *started)))
    assert [run.status for run in ended if run.run_id == run_id] == [Status.ABORTED]
    assert sum(run.status is Status.ABORTED for run in ended) == 46
    assert all(run.status.is_terminal for run in ended)


async def test_many_children_outlive_their_workers(settings: Settings, runs: AsyncRuns, store: Store):
    """Workers die with some of 50 at different points: each ends once, is its parent's, and is told in order."""
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "children.parent", {"children": 50})).run_id
        await segments.execute(runtime, run_id, task_id="t")
        started = await children_of(store, run_id)
        for number, one in enumerate(started[:6]):
            await dying_worker.dies(settings, one, after=2 * number)
        await dying_worker.sweep(settings, store, runtime.operations)
        for one in (*started, run_id):
            await segments.execute(runtime, one, task_id="t")
    told = ["failed:1" if n == 1 else f"succeeded:{n}" for n in range(50)]
    assert (await runs.get(run_id)).text == " ".join(told)
    listed = {run.run_id: run.parent_run for run in (await runs.list(limit=100)).runs}
    assert listed == {run_id: None, **dict.fromkeys(started, run_id)}


async def test_a_budget_ends_the_children_it_has_no_room_for(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """Every second one of 50 asks for more than it may: it ends so, the others do not, and the parent is told."""
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "children.spending", {"children": 50})).run_id
        await segments.execute(runtime, run_id, task_id="t")
        for one in (*await children_of(store, run_id), run_id):
            await segments.execute(runtime, one, task_id="t")
    run = await runs.get(run_id)
    assert run.status is Status.SUCCEEDED
    assert run.text.split() == ["completed", "budget_reached"] * 25


async def test_a_child_that_ends_without_a_word_is_found(settings: Settings, runs: AsyncRuns, store: Store):
    """One that was aborted by itself told nobody: a look at its parent finds that it is over."""
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "children.parent", {"children": 1})).run_id
        await segments.execute(runtime, run_id, task_id="t")
        (one,) = await children_of(store, run_id)
        await runs.abort(one)
        await dying_worker.sweep(settings, store, runtime.operations)
        await segments.execute(runtime, run_id, task_id="t")
    assert (await runs.get(run_id)).text == "aborted:"


@pytest.mark.parametrize("how", ["asked to stop", "over", "deleted"])
async def test_a_child_that_starts_too_late_is_stopped(
    settings: Settings, runs: AsyncRuns, store: Store, how: str
):
    """An abort goes down before a start under way has landed: the child is stopped all the same, unexecuted."""
    async with working(settings) as runtime:
        started = await runs.start("t", "children.parent", {"children": 1})
        await store.client.hset(keys.run(started.run_id).record, "status", "running")
        parent = (await transitions.read(store, started.run_id)).spec
        match how:
            case "asked to stop":
                await runs.abort(started.run_id)
            case "over":
                await store.client.hset(keys.run(started.run_id).record, "status", "queued")
                await runs.abort(started.run_id)
            case _:
                await runs.delete(started.run_id)
        late = await children.start(
            runtime.operations, parent, key="0", fields={"engine": "children.child", "input": {"n": 0}}
        )
        assert await segments.execute(runtime, late, task_id="t") != "completed"
        await dying_worker.sweep(settings, store, runtime.operations)
    assert (await runs.get(late)).status is Status.ABORTED
