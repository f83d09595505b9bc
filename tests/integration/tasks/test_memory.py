"""`run.memory` of a real segment: what it keeps, for whom, and that it stands where the content stands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Status
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, SyncRunContext, engine
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.testing import run_engine
from support.processes import dying_worker
from support.processes.dying_process import Messages
from support.processes.in_process_worker import working

WORDS = 4


@engine("memory.counts", checkpoints=True)
async def counts(run: RunContext[dict[str, Any]]) -> None:
    """Say numbered words and remember how many, with a pause in the middle and a checkpoint after each."""
    for k in range(int(await run.memory.get("said") or b"0"), WORDS):
        await run.text(f"w{k} ")
        await run.memory.put("said", b"%d" % (k + 1))
        if k == 1:
            await run.ask(["go on?"])
        await run.checkpoint()


@engine("memory.ends")
async def ends(run: RunContext[dict[str, Any]]) -> None:
    """Remember something and end as the input says."""
    await run.memory.put(run.input["key"], b"kept")
    await run.memory.delete(run.input.get("delete", "nothing"))
    match run.input.get("end"):
        case "fail":
            raise RuntimeError("as asked")
        case "wait":
            await run.text("waiting")
            await asyncio.Event().wait()
        case _:
            pass


@engine("memory.plain")
def plain(run: SyncRunContext[dict[str, Any]]) -> None:
    """Remember from a thread."""
    run.memory.put("a/1", b"1")
    run.memory.put("a/2", b"2")
    run.memory.put("b", b"3")
    run.memory.delete("a/1")
    run.text(f"{run.memory.get('b')!r} {run.memory.items('a/')}")


async def kept(store: Store, run_id: str, engine: str) -> dict[str, bytes]:
    return await transitions.recall(store, run_id, engine=engine, ttl_ms=60_000)


async def test_runs_of_a_thread_share_it_and_no_other(settings: Settings, runs: AsyncRuns, store: Store):
    """A later run of the engine finds it, whatever the first one ended as; other engines and threads do not."""
    async with working(settings) as runtime:
        for key, end in (("first", "fail"), ("second", "")):
            run_id = (await runs.start("t", "memory.ends", {"key": key, "end": end})).run_id
            await segments.execute(runtime, run_id, task_id="t")
    assert await kept(store, run_id, "memory.ends") == {"first": b"kept", "second": b"kept"}
    assert await kept(store, run_id, "memory.counts") == {}
    other = (await runs.start("another thread", "memory.ends", {"key": "x"})).run_id
    assert await kept(store, other, "memory.ends") == {}


async def test_wherever_its_worker_dies_memory_and_content_agree(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """After each command: the run goes on where both stood. Each word is said once, and counted once."""
    for commands in range(60):
        started = await runs.start(f"thread {commands}", "memory.counts", {}, on_worker_lost="resume")
        survived = await dying_worker.dies(settings, started.run_id, after=commands)
        async with working(settings) as runtime:
            for _ in range(4):
                await dying_worker.sweep(settings, store, runtime.operations)
                await segments.execute(runtime, started.run_id, task_id="t")
                run = await runs.get(started.run_id)
                if run.status is Status.REQUIRES_ACTION:
                    assert run.text == "w0 w1 "
                    assert await kept(store, run.run_id, "memory.counts") == {"said": b"2"}
                    assert run.action is not None
                    answers = [{"question_id": "q1", "text": "yes"}]
                    await runs.resume(run.run_id, action_id=run.action["action_id"], answers=answers)
                elif run.status.is_terminal:
                    break
        assert (run.status, run.text) == (Status.SUCCEEDED, "".join(f"w{k} " for k in range(WORDS)))
        assert await kept(store, run.run_id, "memory.counts") == {"said": b"%d" % WORDS}
        if survived:
            assert commands > 5, "it died nowhere"
            return
    raise AssertionError("it never came to its end")


async def test_it_is_deleted_with_its_thread(settings: Settings, runs: AsyncRuns, store: Store):
    async with working(settings) as runtime:
        run_id = (await runs.start("t", "memory.ends", {"key": "k"})).run_id
        await segments.execute(runtime, run_id, task_id="t")
        aborter = Aborter(operations=runtime.operations, revoker=Messages(), sealer=lambda: "healer")
        await Deleter(aborter=aborter).delete_user(tenant=Principal().tenant, user_id=Principal().user_id)
    assert await kept(store, run_id, "memory.ends") == {}
    assert [key async for key in store.client.scan_iter("*memory*")] == []


# -- forks


@engine("memory.names")
async def names(run: RunContext[dict[str, Any]]) -> None:
    """Keep something for this run, and which run it was; the input may have it pause first."""
    if run.input.get("pause") and not run.decisions:
        await run.memory.put("asked", b"yes")
        await run.ask(["go on?"])
    await run.text("one two")
    await run.memory.put(f"turns/{run.run_id}", b"x")
    await run.memory.put("last", run.run_id.encode())


async def ran(runs: AsyncRuns, here: Runtime, engine_name: str, /, thread: str = "t", **given: Any) -> str:
    run_id = (await runs.start(thread, engine_name, {"text": "go", **given})).run_id
    await segments.execute(here, run_id, task_id="t")
    return run_id


async def test_a_fork_takes_it_along_and_goes_on_with_its_own(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """Also a fork of a fork; ids of copied runs name the copies, and nobody's changes reach the others."""
    async with working(settings) as here:
        await ran(runs, here, "memory.ends", key="other engine's")
        original = await ran(runs, here, "memory.names")
        fork = await runs.fork_thread("t")
        again = await runs.fork_thread(fork.thread_id)
        for made in (fork, again):
            mine = {f"turns/{made.run_id}": b"x", "last": made.run_id.encode()}
            assert await kept(store, made.run_id, "memory.names") == mine
            assert await kept(store, made.run_id, "memory.ends") == {"other engine's": b"kept"}
        later = await ran(runs, here, "memory.names", thread=fork.thread_id)
        assert set(await kept(store, later, "memory.names")) == {
            f"turns/{fork.run_id}",
            f"turns/{later}",
            "last",
        }
        await runs.delete_thread("t")
    assert await kept(store, original, "memory.names") == {}
    assert await kept(store, again.run_id, "memory.names") == mine
    assert await kept(store, again.run_id, "memory.ends") == {"other engine's": b"kept"}


async def test_a_fork_has_no_memory_of_what_comes_later(settings: Settings, runs: AsyncRuns, store: Store):
    """Before the run that changed it last, in the middle of it, or while it runs: none, rather than a later one."""
    async with working(settings) as here:
        first = await ran(runs, here, "memory.names")
        second = await ran(runs, here, "memory.names")
        events = [event.cursor async for event in runs.events(second)]
        points: list[dict[str, Any]] = [
            {"at": first},
            {"at": f"{second}.in"},
            {"at": second, "cursor": events[-2]},
        ]
        for point in points:
            fork = await runs.fork_thread("t", **point)
            assert await kept(store, fork.run_id, "memory.names") == {}, point
        whole = await runs.fork_thread("t", at=second)
        assert set(await kept(store, whole.run_id, "memory.names")) == {
            f"turns/{one}" for one in (await ids_of(runs, whole.thread_id))
        } | {"last"}
        paused = await ran(runs, here, "memory.names", thread="paused", pause=True)
        fork = await runs.fork_thread("paused")
        assert await kept(store, fork.run_id, "memory.names") == {"asked": b"yes"}
        assert (await runs.get(paused)).status is Status.REQUIRES_ACTION


async def ids_of(runs: AsyncRuns, thread: str) -> list[str]:
    return [m.id for m in (await runs.messages(thread)).messages if m.role == "assistant"]


# -- the limits, and plain engines


async def test_plain_engines_have_it_too():
    run = await run_engine("memory.plain", memory={"old": b"0"})
    assert run.text == "b'3' {'a/2': b'2'}"
    assert run.memory == {"a/2": b"2", "b": b"3", "old": b"0"}


@pytest.mark.parametrize(
    ("settings", "puts"),
    [
        (Settings(memory_max_kb=1), {"a": b"x" * 500, "b": b"x" * 600}),
        (Settings(memory_max_keys=2), {"a": b"", "b": b"", "c": b""}),
    ],
)
async def test_it_is_bounded(settings: Settings, puts: dict[str, bytes]):
    """Bytes and keys: what is over is refused by name, the rest stays; room that is made can be used."""

    *fitting, last = puts.items()

    async def greedy(run: RunContext[Any]) -> None:
        for key, value in fitting:
            await run.memory.put(key, value)
        with pytest.raises(errors.MemoryTooLarge, match="MAINSTEM_MEMORY_MAX"):
            await run.memory.put(*last)
        await run.memory.delete("a")
        await run.memory.put(*last)

    run = await run_engine(engine("memory.greedy")(greedy), settings=settings)
    assert run.memory == {key: value for key, value in puts.items() if key != "a"}


@pytest.mark.parametrize("key", ["", "x" * 513, "ü" * 257])
async def test_a_key_has_a_length(key: str):
    async def wrong(run: RunContext[Any]) -> None:
        await run.memory.put(key, b"")

    with pytest.raises(ValueError, match="1 to 512 bytes"):
        await run_engine(engine("memory.wrong")(wrong))
