"""Threads whose runs are archived: whose they are, their titles, and where they stand in lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select

from integration.archive.test_reading import queries
from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.tables import RUNS
from mainstem_shared.model import ids, jsontext
from mainstem_shared.operations.queries import threads
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.models.specs import spec


@pytest.fixture
async def gateway_runs(settings: Settings, store: Store) -> AsyncIterator[AsyncRuns]:
    """The client that a gateway uses: threads are private."""
    async with AsyncRuns(settings, store=store, private_threads=True) as client:
        yield client


async def start(runs: AsyncRuns, user_id: str) -> str:
    return (await runs.start("t", "demo", {"prompt": "hi"}, user_id=user_id)).run_id


async def test_a_thread_stays_its_users(
    store: Store, sweeper: Sweeper, finished: Finishing, gateway_runs: AsyncRuns
) -> None:
    """Nobody else starts a run on a thread whose runs were all archived: at once, and when no key is left."""
    await finished(thread_id="t", user_id="ann")
    await sweeper.sweep()
    for forgotten in (False, True):
        if forgotten:
            await store.client.delete(keys.thread("default", "t"))
        with pytest.raises(errors.NotFound):
            await start(gateway_runs, "bob")
    assert await start(gateway_runs, "ann")


async def test_a_deleted_thread_is_anybodys(
    sweeper: Sweeper, finished: Finishing, gateway_runs: AsyncRuns
) -> None:
    """Once its user deleted it, a thread's id is free again."""
    await finished(thread_id="t", user_id="ann")
    await sweeper.sweep()
    assert await gateway_runs.delete_thread("t", user_id="ann") == 1
    assert await start(gateway_runs, "bob")


async def test_a_start_that_asks_is_not_overtaken(
    store: Store, kept: Archive, sweeper: Sweeper, finished: Finishing, monkeypatch: pytest.MonkeyPatch,
    gateway_runs: AsyncRuns,
) -> None:  # fmt: skip
    """A thread that becomes another's while a start asks the archive, and is archived at once, is theirs."""
    ask = kept.threads.owner

    async def overtaken(tenant: str, thread_id: str) -> str | None:
        answer = await ask(tenant, thread_id)
        await finished(thread_id="t", user_id="ann")
        await sweeper.sweep()
        return answer

    monkeypatch.setattr(kept.threads, "owner", overtaken)
    with pytest.raises(errors.NotFound):
        await start(gateway_runs, "bob")


async def test_nobody_starts_where_nobody_can_tell(
    store: Store, sweeper: Sweeper, finished: Finishing, gateway_runs: AsyncRuns, kept: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While the archive is away threads that the store knows go on; about others nobody is told that they may."""
    await finished(thread_id="t", user_id="ann")

    async def away(*_: object) -> str | None:
        raise errors.ArchiveUnavailable

    monkeypatch.setattr(kept.threads, "owner", away)
    assert await start(gateway_runs, "ann")
    with pytest.raises(errors.ArchiveUnavailable):
        await gateway_runs.start("new", "demo", {"prompt": "hi"}, user_id="ann")


async def test_the_verb_asks_only_where_it_must(store: Store) -> None:
    """The start verb is not held up by an archive for a thread that has a run, or whose user it knows."""

    async def begin(user_id: str, thread_id: str) -> object:
        run_id = ids.run_id("default", thread_id, ids.uuid7())
        made = spec(run_id, user_id=user_id, thread_id=thread_id)
        return await transitions.start(
            store, made, b"{}", nonce=ids.nonce(), if_active="enqueue", live_ttl_ms=60_000,
            thread_ttl_ms=60_000, private="archived",
        )  # fmt: skip

    assert isinstance(await begin("ann", "new"), transitions.Unknown)
    await store.client.hset(keys.thread("default", "known"), "user", "ann")
    assert isinstance(await begin("bob", "known"), transitions.Gone)
    assert isinstance(await begin("ann", "known"), transitions.Started)
    assert isinstance(await begin("ann", "known"), transitions.Started)


async def test_titles_of_archived_threads_and_runs(
    sweeper: Sweeper, finished: Finishing, runs: AsyncRuns
) -> None:
    """What people say about a thread and a run survives the move, and can be changed and cleared afterwards."""
    run_id = await finished(thread_id="t")
    await runs.describe_thread("t", {"title": "Früher", "labels": ["a"]})
    await runs.describe(run_id, {"title": "Lauf", "metadata": {"k": 1}})
    await sweeper.sweep()
    ((thread,), _) = await runs.threads(search="früh")
    assert (thread.description.title, thread.description.labels) == ("Früher", ["a"])
    run = await runs.get(run_id)
    assert (run.title, run.metadata) == ("Lauf", {"k": 1})
    assert (await runs.describe(run_id, {"title": "Später"})).title == "Später"
    assert (await runs.describe_thread("t", {"title": None})).title is None
    ((thread,), _) = await runs.threads()
    assert thread.description.title == "Später"  # the run's
    assert (await runs.get(run_id)).metadata == {"k": 1}
    for call in (runs.describe_thread("t", {}, user_id="x"), runs.describe(run_id, {}, user_id="x")):
        with pytest.raises(errors.NotFound):
            await call


@pytest.mark.parametrize("moment", ["before the row", "before the release", "in the hot window"])
async def test_a_change_while_a_run_moves(
    store: Store, sweeper: Sweeper, finished: Finishing, runs: AsyncRuns, kept: Archive,
    monkeypatch: pytest.MonkeyPatch, moment: str,
) -> None:  # fmt: skip
    """A title that is changed while its run moves is the archive's in the end, at whichever step it came."""
    run_id = await finished(thread_id="t")

    async def change() -> None:
        await runs.describe(run_id, {"title": "new"})

    put = kept.put_each

    async def interrupted(rows: list[dict[str, object]]) -> tuple[set[str], set[str]]:
        monkeypatch.setattr(kept, "put_each", put)
        if moment == "before the row":
            await change()
        answer = await put(rows)
        if moment == "before the release":
            await change()
        return answer

    monkeypatch.setattr(kept, "put_each", interrupted)
    if moment == "in the hot window":
        object.__setattr__(
            sweeper.operations,
            "settings",
            sweeper.operations.settings.model_copy(update={"archive_hot_s": 60}),
        )
    await sweeper.sweep()
    if moment == "in the hot window":
        await change()
        object.__setattr__(
            sweeper.operations,
            "settings",
            sweeper.operations.settings.model_copy(update={"archive_hot_s": 0}),
        )
    await finished.due(run_id)
    await sweeper.sweep()
    assert not await store.client.exists(keys.run(run_id).record)
    assert (await runs.get(run_id)).title == "new"


async def test_threads_are_listed_across_both(sweeper: Sweeper, finished: Finishing, runs: AsyncRuns) -> None:
    """Each thread stands once, where its newest run does, whichever of its runs are archived."""
    for number in range(6):
        await finished(thread_id=f"t{number % 3}")
        await asyncio.sleep(0.002)
    await sweeper.sweep()
    await finished(thread_id="t0")
    await finished(thread_id="t3")
    found, cursor = await runs.threads(limit=2)
    while cursor:
        more, cursor = await runs.threads(limit=2, cursor=cursor)
        found += more
    assert [thread.thread_id for thread in found] == ["t3", "t0", "t2", "t1"]


async def test_a_long_thread_is_looked_up_once(
    store: Store, kept: Archive, sweeper: Sweeper, finished: Finishing
) -> None:
    """A list of threads whose newest has hundreds of runs asks for its newest run once, and finds the others."""
    await finished(thread_id="short", user_id="ann")
    last = await finished(thread_id="long", user_id="ann")
    await sweeper.sweep()
    (row,) = [dict(one) for one in await kept.read(select(RUNS).where(RUNS.c.run_id == last))]
    known = jsontext.loads(row["spec"])
    made: list[dict[str, Any]] = []
    for number in range(1, 300):
        run_id, created_ms = ids.run_id("default", "long", ids.uuid7()), row["created_ms"] + number
        told = jsontext.dumps({**known, "run_id": run_id, "created_ms": created_ms})
        made.append({**row, "run_id": run_id, "created_ms": created_ms, "spec": told, "messages": None})
    await kept.put(made)
    with queries(await kept.open()) as asked:
        listed, _ = await threads.page(store, tenant="default", user_id="ann", limit=2)
    assert [(one.thread_id, one.run.run_id) for one in listed][:1] == [("long", made[-1]["run_id"])]
    assert [one.thread_id for one in listed] == ["long", "short"]
    assert sum("row_number" in one for one in asked) == 2, asked


async def test_inputs_of_archived_runs(
    sweeper: Sweeper, store: Store, finished: Finishing, runs: AsyncRuns
) -> None:
    """What a run was started with is read from the archive, by its user."""
    run_id = await finished()
    await store.client.hset(keys.run(run_id).record, "input", b'{"prompt": "hi"}')
    await sweeper.sweep()
    assert await runs.input(run_id) == {"prompt": "hi"}
    with pytest.raises(errors.NotFound):
        await runs.input(run_id, user_id="x")


async def test_forks_of_archived_threads(
    sweeper: Sweeper, finished: Finishing, runs: AsyncRuns, store: Store
) -> None:
    """What only the archive has is forked, under its title; the copy is archived in its turn; asked again,
    also then, nothing is made a second time."""
    await finished(thread_id="t")
    await finished(thread_id="t")
    await runs.describe_thread("t", {"title": "Alt"})
    await sweeper.sweep()
    original = (await runs.messages("t")).messages
    made = await runs.fork_thread("t", new_thread_id="new")
    for archived in (False, True):
        if archived:
            for run_id in [message.run_id for message in (await runs.messages("new")).messages]:
                await finished.due(run_id)
            await sweeper.sweep()
            assert not await store.client.exists(keys.thread_runs("default", "new"))
        copied = (await runs.messages("new")).messages
        assert [message.parts for message in copied] == [message.parts for message in original]
        assert [m.forked_from and m.forked_from.message_id for m in copied] == [m.id for m in original]
        assert await runs.fork_thread("t", new_thread_id="new") == made
    (listed, _) = await runs.threads()
    assert [(thread.thread_id, thread.description.title) for thread in listed] == [
        ("new", "Alt"), ("t", "Alt"),
    ]  # fmt: skip
    await runs.delete_thread("t")
    assert len((await runs.messages("new")).messages) == len(original)
