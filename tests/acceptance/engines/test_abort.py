"""Aborting runs of real workers, from a client: whatever the run is doing, and whatever is broken."""

from __future__ import annotations

import asyncio
import collections
import time

import pytest
from celery import Celery

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model.runs import Status
from mainstem_shared.store import keys
from support.clients.clients import client, finished
from support.engines.demowords import demo_text
from support.models.logs import RunLog
from support.waiting import wait_until_async

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
QUICK = {"MAINSTEM_LEASE_S": "1.5", "MAINSTEM_SWEEP_S": "0.3"}


async def streaming(
    runs: AsyncRuns, thread_id: str = "thread", engine: str = "demo", **run_input: object
) -> str:
    """Start a run that does not end by itself, and wait for its first words."""
    started = await runs.start(thread_id, engine, dict(run_input) if engine != "demo" else ENDLESS)

    async def speaks() -> bool:
        run = await runs.get(started.run_id)
        return bool(run.content)

    await wait_until_async(speaks, description="the run to stream", timeout_s=20)
    return started.run_id


async def ends_of(runs: AsyncRuns, run_id: str) -> list[str]:
    seen = [event async for event in runs.events(run_id)]
    assert seen[-1].type == "run.finished"
    return [event.type for event in seen if event.type == "run.finished"]


async def test_a_running_run_is_aborted_at_once(stage, thread: str):
    """The answer has the partial text, an exact prefix, the status it was won from, and that the worker heard."""
    async with client(stage) as runs:
        run_id = await streaming(runs, thread)
        begun = time.monotonic()
        aborted = await runs.abort(run_id, wait=10)
        took = time.monotonic() - begun
        assert (aborted.outcome, aborted.won_from, aborted.signal_delivered) == ("aborted", "running", True)
        assert (aborted.run.status, aborted.run.reason) == ("aborted", "user_abort")
        assert aborted.run.text
        assert demo_text(100_000).startswith(aborted.run.text)
        assert await ends_of(runs, run_id) == ["run.finished"]
        assert took < 2
        again = await finished(runs, thread, {"tokens": 3, "interval_ms": 0})
        assert again.text == demo_text(3), "the worker and the thread are free"


async def test_an_abort_that_does_not_wait_says_what_it_knows(stage, thread: str):
    """Without waiting the answer is `pending`, delivered, as soon as the worker has read its mail."""
    async with client(stage) as runs:
        run_id = await streaming(runs, thread, engine="careful", cleanup_s=0.5)
        asked = await runs.abort(run_id)
        assert (asked.outcome, asked.won_from, asked.signal_delivered) == ("pending", None, True)
        assert (await runs.wait(run_id, timeout=10)).reason == "user_abort"


async def test_a_queued_run_is_aborted_without_any_worker(live):
    """Nobody runs it: it is over at once, its message is without effect, and it never started."""
    async with client(live) as runs:
        started = await runs.start("thread", "demo", ENDLESS)
        aborted = await runs.abort(started.run_id)
        assert (aborted.outcome, aborted.won_from, aborted.signal_delivered) == ("aborted", "queued", True)
        assert aborted.run.started_at is None
        live.worker()
        run = await finished(runs, "thread", {"tokens": 3, "interval_ms": 0})
        assert run.text == demo_text(3)
        assert (await runs.get(started.run_id)).cursor == aborted.run.cursor


async def test_the_engines_cleanup_completes(stage, thread: str):
    """Aborted twice, during its `finally` too: the engine cleans up undisturbed, and the run ends once."""
    async with client(stage) as runs:
        run_id = await streaming(runs, thread, engine="careful", cleanup_s=1.0)
        first = asyncio.create_task(runs.abort(run_id, wait=10))

        async def cleaning() -> bool:
            return "cleaning" in await customs(runs, run_id)

        await wait_until_async(cleaning, description="the cleanup to begin")
        others = [runs.abort(run_id, wait=10) for _ in range(3)]
        answers = await asyncio.gather(first, *others)
        assert {answer.outcome for answer in answers} == {"aborted"}
        assert await customs(runs, run_id) == ["cleaning", "cleaned"]
        assert answers[0].run.usage is not None
        assert answers[0].run.usage.input_tokens == 7
        assert await ends_of(runs, run_id) == ["run.finished"]


async def customs(runs: AsyncRuns, run_id: str) -> list[str]:
    """Names of the custom events in the log so far."""
    cursor = (await runs.get(run_id)).cursor
    names: list[str] = []
    async for event in runs.events(run_id):
        if event.type == "custom":
            names.append(event.data["name"])
        if event.cursor == cursor:
            break
    return names


async def test_dangling_tool_calls_are_closed(stage, thread: str):
    """A call without an answer gets a synthetic one; an answered one keeps its own."""
    async with client(stage) as runs:
        run_id = await streaming(runs, thread, engine="calling")

        async def asked() -> bool:
            return len((await runs.get(run_id)).content) == 2

        await wait_until_async(asked, description="both calls")
        answer = await runs.abort(run_id, wait=10)
        one, two = answer.run.content
        assert (one["state"], one["result"]) == ("completed", {"found": 1})
        assert (two["state"], two["result"]["error"]["code"]) == ("aborted", "aborted")


async def test_finished_runs_stay_as_they_are(stage, thread: str):
    """Aborting what is over changes nothing, `finished_at` included, and says so; unknown runs are not found."""
    async with client(stage) as runs:
        run = await finished(runs, thread, {"tokens": 3, "interval_ms": 0})
        newer = await streaming(runs, thread)
        answer = await runs.abort(run.run_id, wait=5)
        assert (answer.outcome, answer.won_from, answer.signal_delivered) == ("already_finished", None, False)
        assert answer.run == run
        assert (await runs.get(newer)).status == "running", "a stale abort does not touch a newer run"
        await runs.abort(newer, wait=5)
        for unknown in ("nonsense", run.run_id[:-2] + "aa"):
            with pytest.raises(errors.NotFound):
                await runs.abort(unknown)
        with pytest.raises(errors.NotFound):
            await runs.abort(newer, user_id="somebody else")


async def test_abort_and_finish_race(stage, thread: str):
    """Whoever wins, there is one end, and the answer is what happened."""
    async with client(stage) as runs:
        outcomes: collections.Counter[str] = collections.Counter()

        async def race(n: int) -> None:
            started = await runs.start(f"{thread} {n}", "demo", {"tokens": 10, "interval_ms": 2})
            await asyncio.sleep(n * 0.002)
            answer = await runs.abort(started.run_id, wait=10)
            outcomes[answer.outcome] += 1
            expected = "aborted" if answer.outcome == "aborted" else "succeeded"
            assert answer.run.status == expected, answer
            assert demo_text(10).startswith(answer.run.text)
            assert await ends_of(runs, started.run_id) == ["run.finished"]
            later = await runs.get(started.run_id)
            assert (later.status, later.cursor) == (answer.run.status, answer.run.cursor)

        for n in range(30):
            await race(n)
        assert set(outcomes) == {"aborted", "already_finished"}, outcomes


async def test_aborts_overtaking_the_claim(stage, thread: str):
    """Aborts that meet a run between its message and its engine, waiting or not, never strand it."""
    async with client(stage) as runs:

        async def start_and_abort(n: int) -> str:
            started = await runs.start(f"{thread} {n}", "demo", ENDLESS)
            await asyncio.sleep((n % 10) * 0.001)
            answer = await runs.abort(started.run_id, wait=10 * (n % 2))
            assert answer.outcome != "already_finished"
            return started.run_id

        for first in range(0, 80, 20):
            ids = await asyncio.gather(*(start_and_abort(n) for n in range(first, first + 20)))
            for run_id in ids:
                assert (await runs.wait(run_id, timeout=10)).reason == "user_abort"


async def test_without_celerys_broadcast_the_mailbox_does_it(apart):
    """The broker stands still, so that no revocation arrives: the abort takes no longer."""
    apart.worker()
    async with client(apart) as runs:
        run_id = await streaming(runs)
        apart.broker.freeze()
        try:
            begun = time.monotonic()
            answer = await runs.abort(run_id, wait=10)
            took = time.monotonic() - begun
        finally:
            apart.broker.thaw()
        assert (answer.outcome, answer.signal_delivered) == ("aborted", True)
        assert took < 1


async def test_a_dead_owners_run_is_aborted_by_a_sweeper(live):
    """The worker is killed: the abort is pending, told nobody, and any sweeper carries it out."""
    first = live.worker("first", **QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs)
        first.sigkill()
        answer = await runs.abort(run_id)
        assert (answer.outcome, answer.signal_delivered) == ("pending", False)
        live.worker("second", **QUICK)
        run = await runs.wait(run_id, timeout=15)
        assert run.reason == "user_abort"
        assert demo_text(100_000).startswith(run.text)
        assert await ends_of(runs, run_id) == ["run.finished"]


async def test_who_holds_a_lease_ends_a_dead_owners_run_at_once(live):
    """A caller with a lease does not wait for sweeps: no other process lives here."""
    first = live.worker("first", **QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs)
        owner = (await runs.get(run_id)).worker
        first.sigkill()
        with live.store.client() as store:
            store.delete(keys.lease(owner))
        async with AsyncRuns(live.settings(), sealer=lambda: "the-caller") as leased:
            answer = await leased.abort(run_id)
        assert (answer.outcome, answer.won_from, answer.signal_delivered) == ("aborted", "running", False)
        assert demo_text(100_000).startswith(answer.run.text)


async def test_a_frozen_worker_is_not_said_to_have_heard(live):
    """SIGSTOP: pending and not delivered; after its lease the run is over, and nothing of the zombie lands."""
    first, _ = live.workers("first", "second", **QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs)
        frozen = first if f"-{first.pid}-" in ((await runs.get(run_id)).worker or "") else None
        frozen = frozen or next(child for child in live.children if child is not first)
        frozen.freeze()
        answer = await runs.abort(run_id, wait=0.3)
        assert (answer.outcome, answer.signal_delivered) == ("pending", False)
        run = await runs.wait(run_id, timeout=15)
        # The lease counted from its last renewal; a suspension counts from the process's last pulse.
        await asyncio.sleep(float(QUICK["MAINSTEM_LEASE_S"]))
        frozen.thaw()
        assert run.reason == "user_abort"
        await wait_until_async(
            lambda: "suspended for longer" in frozen.log, description="the zombie to notice", timeout_s=15
        )
        assert (await runs.get(run_id)).cursor == run.cursor


async def test_an_intent_alone_is_carried_out(live):
    """The aborter died after writing the intent: a sweeper tells the owner, within a sweep or two."""
    live.worker(**QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs)
        with live.store.client() as store:
            store.zadd(keys.run(run_id).active, {run_id: 0})  # the order in which an abort writes
            store.hset(keys.run(run_id).record, mapping={"stop_reason": "user_abort", "stop_ms": "1"})
        assert (await runs.wait(run_id, timeout=10)).reason == "user_abort"


@pytest.fixture
def flower(live):
    """Celery's own remote control, as Flower and operators use it."""
    app = Celery(broker=live.broker.url(1), set_as_current=False)
    yield app.control
    app.close()


def task_of(live, run_id: str) -> str:
    with live.store.client() as store:
        return store.hget(keys.run(run_id).record, "task")


async def test_terminate_in_flower_is_an_abort(live, flower):
    """Terminating the task of a running run ends it as `user_abort`, with its partial text."""
    child = live.worker()
    async with client(live) as runs:
        run_id = await streaming(runs)
        flower.revoke(task_of(live, run_id), terminate=True)
        run = await runs.wait(run_id, timeout=10)
        assert (run.status, run.reason) == ("aborted", "user_abort")
        assert demo_text(100_000).startswith(run.text)
        assert await ends_of(runs, run_id) == ["run.finished"]
    assert "Traceback" not in child.log
    assert "Failed to mark task" not in child.log, "a warning for each abort is noise"


async def test_a_plain_revoke_leaves_a_running_run_alone(live, flower):
    """Revoking without terminate drops what has not started, and nothing else."""
    live.worker()
    async with client(live) as runs:
        started = await runs.start("thread", "demo", {"tokens": 100, "interval_ms": 10})

        async def is_running() -> bool:
            return (await runs.get(started.run_id)).status is Status.RUNNING

        await wait_until_async(is_running, description="the run to start", timeout_s=20)
        flower.revoke(task_of(live, started.run_id))
        run = await runs.wait(started.run_id, timeout=20)
        assert (run.status, run.text) == ("succeeded", demo_text(100))


@pytest.mark.parametrize("terminate", [False, True])
async def test_revoking_a_queued_message_aborts_its_run(live, flower, terminate):
    """A message revoked before a worker starts it: its run is aborted as soon as a worker drops it."""
    live.worker(MAINSTEM_CONCURRENCY="1", MAINSTEM_SWEEP_S="60")
    async with client(live) as runs:
        busy = await streaming(runs, "busy")
        waiting = await runs.start("waiting", "demo", ENDLESS)
        flower.revoke(task_of(live, waiting.run_id), terminate=terminate)
        flower.ping(timeout=0.5)  # control messages are handled in order
        await runs.abort(busy, wait=10)
        run = await runs.wait(waiting.run_id, timeout=10)
        assert (run.status, run.reason, run.started_at) == ("aborted", "user_abort", None)


async def test_a_run_that_its_owner_forgot(live):
    """Its task died after the claim: the run is the worker's by its record alone. The abort's mail ends it."""
    live.worker(MAINSTEM_DRAIN_S="0.2")
    async with client(live) as runs:
        busy = await streaming(runs, "busy")
        owner = (await runs.get(busy)).worker
        with live.store.client() as store:
            store.zadd(keys.run(busy).active, {busy: 0})
        forgotten = await RunLog.start(runs._store)
        await forgotten.claim(owner)
        await forgotten.say(3)
        answer = await runs.abort(forgotten.run_id, wait=10)
        assert (answer.outcome, answer.run.text) == ("aborted", "w0 w1 w2")
        assert (await runs.get(busy)).status is Status.RUNNING
