"""Finished runs move to the archive, once, and every reader finds them as if they had not moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import archive, errors, transitions
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.dying_process import Messages


@pytest.fixture
def settings(store_url: str, broker_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=store_url,
        broker_url=broker_url,
        sweep_s=3600,
        archive_url=f"sqlite:///{tmp_path}/archive.db",
        archive_hot_s=0,
        compact_after_s=0,
    )


@pytest.fixture
async def store(store_url: str, settings: Settings) -> AsyncIterator[Store]:
    connected = Store(store_url, archive=archive.connect(settings))
    yield connected
    await connected.close()


@pytest.fixture
def sweeper(store: Store, settings: Settings) -> Sweeper:
    operations = Operations(store=store, settings=settings, publisher=Messages())
    return Sweeper(operations=operations, owner=lambda: "sweeper")


async def finished(store: Store, settings: Settings, **who: Any) -> str:
    """A run that said three words, ended, and is on every list."""
    run = await RunLog.start(store, **who)
    await run.claim()
    await run.say(3)
    await run.finish()
    state = await transitions.read(store, run.run_id)
    assert isinstance(state, transitions.State)
    indexes = Operations(store=store, settings=settings, publisher=Messages()).indexes
    await indexes.add(state.spec)
    await indexes.finished(run.run_id)
    await store.client.zadd(keys.run(run.run_id).compact, {run.run_id: now_ms() - 1})
    return run.run_id


async def bytes_left(store: Store) -> list[bytes]:
    return [key for key in await store.client.keys("*") if key not in (b"ms:sweep", b"ms:census")]


async def test_an_archived_run_reads_as_before(
    store: Store, settings: Settings, sweeper: Sweeper, runs: AsyncRuns
) -> None:
    """A run whose keys are gone is read, listed, followed and answered as a thread's message, byte for byte."""
    run_id = await finished(store, settings, thread_id="t")
    before = await runs.get(run_id)
    said = await runs.messages("t")
    await sweeper.sweep()
    assert await bytes_left(store) == []
    assert await runs.get(run_id) == before
    assert (await runs.list(thread_id="t")).runs == (await runs.list()).runs == [before]
    assert await runs.messages("t") == said
    assert [event.type async for event in runs.events(run_id)] == ["snapshot", "run.finished"]
    assert [event async for event in runs.events(run_id, before.cursor)] == []
    assert (await runs.abort(run_id)).outcome == "already_finished"
    with pytest.raises(errors.NotFound):
        await runs.get(run_id, user_id="somebody else")


async def test_lists_merge_both(store: Store, settings: Settings, sweeper: Sweeper, runs: AsyncRuns) -> None:
    """Pages go through archived and live runs in order of creation, each run once, whatever has moved meanwhile."""
    ids = [await finished(store, settings, thread_id=f"t{number % 3}") for number in range(7)]
    await sweeper.sweep()
    ids += [await finished(store, settings, thread_id=f"t{number % 3}") for number in range(7)]
    found: list[str] = []
    cursor = None
    while True:
        page = await runs.list(limit=3, cursor=cursor)
        found += [run.run_id for run in page.runs]
        cursor = page.next
        if len(found) == 6:
            await sweeper.sweep()  # in the middle of the pages
        if cursor is None:
            break
    assert sorted(found) == sorted(ids)
    assert len(found) == len(set(found))


async def test_a_deletion_stands(store: Store, settings: Settings, sweeper: Sweeper, runs: AsyncRuns) -> None:
    """A thread that is deleted is deleted in the archive as well, and a sweeper that read it before changes nothing."""
    moved = await finished(store, settings, thread_id="t")
    await sweeper.sweep()
    late = await finished(store, settings, thread_id="t")
    read = await transitions.dump_many(store, [late])
    assert await runs.delete_thread("t") == 2
    assert store.archive is not None
    from mainstem_shared.archive.rows import row_of
    from mainstem_shared.operations.archiving import stored_of

    stored = stored_of(read[0])  # type: ignore[arg-type]
    assert stored is not None
    assert await store.archive.put([row_of(stored)]) == {late}
    for run_id in (moved, late):
        with pytest.raises(errors.NotFound):
            await runs.get(run_id)
    assert await store.archive.count() == 0
    with pytest.raises(errors.NotFound):
        await runs.delete_thread("t")


async def test_an_archive_that_is_away_loses_nothing(
    store_url: str, settings: Settings, tmp_path: Path, runs: AsyncRuns
) -> None:
    """While the archive cannot be reached runs stay in the store, readable; later they move."""
    (tmp_path / "away").mkdir()
    away = settings.model_copy(update={"archive_url": f"sqlite:///{tmp_path}/away/nothing/archive.db"})
    address = Settings(archive_url=f"sqlite:///{tmp_path}/away/nothing/archive.db")
    store = Store(store_url, archive=archive.connect(address))
    try:
        run_id = await finished(store, away)
        sweeper = Sweeper(
            operations=Operations(store=store, settings=away, publisher=Messages()), owner=lambda: "s"
        )
        await sweeper.sweep()
        assert await store.client.zcard(keys.run(run_id).compact) == 1
        assert (await runs.get(run_id)).text == "w0 w1 w2"
        with pytest.raises(errors.ArchiveUnavailable):
            await transitions.find(store, run_id[:-1] + ("a" if run_id[-1] != "a" else "b"))
        (tmp_path / "away" / "nothing").mkdir()
        await store.client.zadd(keys.run(run_id).compact, {run_id: now_ms() - 1})
        sweeper.archiver._away_until = 0
        await sweeper.sweep()
        assert await store.client.zcard(keys.run(run_id).compact) == 0
        assert store.archive is not None
        assert await store.archive.count() == 1
    finally:
        await store.close()


async def test_many_ask_at_once(store: Store, settings: Settings, sweeper: Sweeper, runs: AsyncRuns) -> None:
    """Readers of the same and of different runs get theirs."""
    ids = [await finished(store, settings) for _ in range(5)]
    await sweeper.sweep()
    found = await asyncio.gather(*(runs.get(run_id) for run_id in ids * 3))
    assert [run.run_id for run in found] == ids * 3
