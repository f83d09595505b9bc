"""Workers of this version and of the next one side by side, as in a deployment that is under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.clients.clients import client
from support.engines import newer
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.waiting import wait_until, wait_until_async

THIS = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.3",
    "PYTHONPATH": str(TESTS),
}
NEXT = {**THIS, "MAINSTEM_ENGINES": "support.engines.engines_newer"}
WORDS = 20


@pytest.fixture
async def store(live: Any) -> AsyncIterator[Store]:
    connected = Store(live.store.url(0))
    yield connected
    await connected.close()


async def delivered(runs: AsyncRuns, run_id: str, *statuses: str) -> Any:
    """Publish a run's message, as the outbox does, until a worker has taken it as far as this."""

    async def got_there() -> Any:
        with contextlib.suppress(errors.Conflict):
            await runs.requeue(run_id)
        run = await runs.get(run_id)
        return run if run.status in statuses else None

    return await wait_until_async(got_there, description=f"the run to be {statuses}", timeout_s=40)


async def test_two_versions_share_the_work(live: Any, store: Store):
    """Each executes what it understands; a run of the next version is refused, kept, and taken by its own workers."""
    old = live.worker("old", **THIS)
    async with client(live) as runs:
        theirs = [await newer.start(store, f"theirs {n}", tokens=WORDS) for n in range(3)]
        for run_id in theirs:
            await runs.requeue(run_id)
            wait_until(lambda r=run_id: refused(old.log, r), description="the refusal", timeout_s=30)
            assert (await runs.get(run_id)).status == "queued"
        await asyncio.to_thread(live.worker, "new", **NEXT)
        ours = [(await runs.start(f"ours {n}", "demo", {"tokens": WORDS})).run_id for n in range(6)]
        await store.client.hset(keys.run(ours[0]).record, "mood", "unknown here")
        for run_id in theirs:
            await delivered(runs, run_id, "succeeded")
        for run_id in (*ours, *theirs):
            run = await runs.wait(run_id, timeout=40)
            assert (run.status, run.text) == ("succeeded", demo_text(WORDS))
        seen = [event async for event in runs.events(theirs[0])]
    assert sum(event.type == "mood.changed" for event in seen) == WORDS, "unknown events pass through"
    assert b"hopeful" in await store.client.hget(keys.run(theirs[0]).record, "spec")
    assert await store.client.hget(keys.run(ours[0]).record, "mood") == b"unknown here"


def refused(log: str, run_id: str) -> bool:
    return any("action=run_newer" in line and run_id in line for line in log.splitlines())


async def test_this_version_does_not_end_what_it_does_not_understand(live: Any, store: Store):
    """A lost run of the next version is left to its own sweepers; what can be read of it is read."""
    old = live.worker("old", **THIS)
    new = live.worker("new", **NEXT)
    async with client(live) as runs:
        run_id = await newer.start(store, "theirs", tokens=newer.LONG)
        await delivered(runs, run_id, "running")

        async def speaks() -> bool:
            return "w3" in (await runs.get(run_id)).text.split()

        await wait_until_async(speaks, description="the run to stream", timeout_s=30)
        new.sigkill()
        with pytest.raises(errors.NewerVersion):
            await runs.kill(run_id)
        await sweeps(live, store)
        run = await runs.get(run_id)
        assert run.status == "running"
        assert run.text.startswith(demo_text(3))
        assert "run_unreadable" not in old.log
        await asyncio.to_thread(live.worker, "next", **NEXT)
        ended = await runs.wait(run_id, timeout=40)
    assert (ended.reason, ended.text) == ("user_abort", run.text), "what was asked of it in vain is done now"


async def sweeps(live: Any, store: Store) -> None:
    """Let this version's sweeper settle another lost run: it has looked at everything twice by then."""
    lost = "somebody-1-00000000"
    await store.client.zadd(keys.WORKERS, {lost: 1})
    await wait_until_async(
        lambda: _is_settled(store, lost), description="the sweeper to settle another owner", timeout_s=30
    )


async def _is_settled(store: Store, owner: str) -> bool:
    return await store.client.zscore(keys.WORKERS, owner) is None


async def test_mail_of_the_next_version_does_no_harm(live: Any, store: Store):
    """A worker passes over what it does not understand, and acts on what comes after."""
    worker = live.worker("old", **THIS)
    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", {"tokens": newer.LONG, "interval_ms": 10})).run_id

        async def owner() -> str | None:
            return (await runs.get(run_id)).worker

        box = keys.mailbox(await wait_until_async(owner, description="its worker", timeout_s=30) or "")
        await store.client.xadd(box, {"m": '{"kind":"sing","run_id":"x"}'})
        done = await runs.abort(run_id, wait=20)
    assert (done.outcome, done.signal_delivered) == ("aborted", True)
    assert "action=mail_refused" in worker.log
