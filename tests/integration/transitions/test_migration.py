"""A store of version 1 is served as it is, and moved to buckets thread by thread, each once it is at rest."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.cursors import START
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import ending, migration
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.store import connections, keys
from mainstem_shared.store.client import Store
from support.models import listed, recordings
from support.models import verb_calls as v
from support.models.logs import RunLog
from support.processes.servers import ValkeyProcess

FILES = sorted((recordings.FIXTURES / "v1").glob("*.json"))


async def everything_of(store: Store, tag: str) -> set[str]:
    return {key.decode() async for key in store.client.scan_iter(f"*{tag}*")}


async def started_by_version_one(store: Store, tag: str, start: Any) -> Any:
    """What a process of version 1 does: this one's code, with the thread's keys as they were."""
    keys.FIRST_VERSION.add(tag)
    made = await start()
    keys.FIRST_VERSION.clear()
    return made


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_a_thread_of_version_one_moves_once_it_is_at_rest(store: Store, runs: AsyncRuns, path: Path):
    """Before and after it reads the same; every key is in its bucket, and nothing is left behind."""
    recording = recordings.load(path)
    await recording.restore(store.client)
    tag, _ = ids.split(recording.run_id)
    sweeper = Sweeper(operations=runs._operations, owner=lambda: "me")
    before = await runs.get(recording.run_id)
    listed_runs = await migration.learn(store)
    assert await migration.move(store, listed_runs) == int(before.finished_at is not None)
    if before.finished_at is None:
        assert (await runs.get(recording.run_id)).cursor == before.cursor
        for run_id in listed_runs[tag]:
            await ending.take_and_end(runs._operations, run_id, sealer="me", reason=Reason.USER_ABORT)
        before = await runs.get(recording.run_id)
    await sweeper.sweep()
    assert set() == keys.FIRST_VERSION
    assert await runs.get(recording.run_id) == before
    thread = keys.of_bucket(tag).thread
    assert all(key.startswith(thread) for key in await everything_of(store, tag))
    assert not await store.client.exists(*keys.FIRST_INDEXES)
    assert set(listed_runs[tag]) <= set(await listed.scores(store.client, "recent"))
    assert (await runs.list(thread_id=before.thread_id)).runs[-1].thread_id == before.thread_id


async def test_a_run_that_version_one_starts_meanwhile_is_claimed_followed_and_ended(
    store: Store, runs: AsyncRuns
):
    """Nobody has learnt of it: who claims or reads it recognises it, and works under its keys."""
    run_id = v.new_run("while")
    tag, _ = ids.split(run_id)
    await started_by_version_one(store, tag, lambda: v.start(store, run_id))
    assert all(key.startswith(f"ms:{{{tag}}}") for key in await everything_of(store, tag))
    assert (await runs.get(run_id)).status == "queued"
    keys.FIRST_VERSION.clear()
    claimed = await v.claim(store, run_id)
    assert isinstance(claimed, transitions.Claimed)
    assert await migration.move(store, await migration.learn(store)) == 0, "it runs"
    control = transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="w1")
    await v.append(store, control, "a")
    ended = await ending.take_and_end(runs._operations, run_id, sealer="me", reason=Reason.USER_ABORT)
    assert ended is not None
    assert await migration.move(store, await migration.learn(store)) == 1
    assert (await runs.get(run_id)).status == "aborted"


async def test_a_process_that_missed_the_move_finds_the_run(store: Store, runs: AsyncRuns):
    """It looks at the keys of version 1 first, finds nothing there, and looks again."""
    run_id = v.new_run("missed")
    tag, _ = ids.split(run_id)

    async def whole() -> None:
        await v.start(store, run_id)
        await v.finish(store, transitions.Control(run_id=run_id, epoch=1, owner=""))

    await started_by_version_one(store, tag, whole)
    await migration.move(store, await migration.learn(store))
    keys.FIRST_VERSION.add(tag)
    assert (await runs.get(run_id)).status == "succeeded"
    assert tag not in keys.FIRST_VERSION


@pytest.mark.parametrize(
    "look", [transitions.read, partial(transitions.page, after=START)], ids=["read", "page"]
)
async def test_a_run_that_moves_while_it_is_looked_for_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch, look: Any
):
    """It is not where this process looked first, nor, any more, where version 1 had it: it is here by now."""
    run_id = v.new_run("moving")
    tag, _ = ids.split(run_id)

    async def whole() -> None:
        await v.start(store, run_id)
        await v.finish(store, transitions.Control(run_id=run_id, epoch=1, owner=""))

    await started_by_version_one(store, tag, whole)
    verb = store.verb

    async def overtaken(*args: Any, **options: Any) -> Any:
        reply = await verb(*args, **options)
        monkeypatch.undo()
        assert await migration.move(store, await migration.learn(store)) == 1
        keys.FIRST_VERSION.clear()
        return reply

    monkeypatch.setattr(store, "verb", overtaken)
    assert not isinstance(await look(store, run_id), transitions.Gone)
    assert isinstance(await look(store, v.new_run("none")), transitions.Gone)


async def test_a_store_without_old_threads_is_asked_three_things(store: Store):
    """Once all is moved, a sweep's look for it costs one round trip."""
    await RunLog.start(store)
    assert await migration.learn(store) == {}
    assert set() == keys.FIRST_VERSION


async def test_connections_that_lead_to_different_servers_are_not_asked_for_ever(
    store: Store, private_valkey: ValkeyProcess
):
    """A demoted primary that lags answers some of them: reads fail soon, and may be repeated."""
    run_id = v.new_run("torn")
    await v.start(store, run_id)
    torn = Store(store.url)
    node = torn.node(torn.topology.nodes[0])
    node.__dict__["client"] = connections.connect(private_valkey.url(0))
    try:
        with pytest.raises(errors.StoreUnavailable):
            await transitions.read(torn, run_id)
        assert node.round_trips < 20
    finally:
        await torn.close()
