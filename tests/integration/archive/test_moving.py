"""Finished runs move to the archive, once, and every reader finds them as if they had not moved."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import archive, errors, transitions
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.dying_process import Messages


async def left(store: Store) -> dict[bytes, int]:
    """The keys that are left, but for those of sweeps and workers, and for how long (ms)."""
    listed = [
        key
        for key in await store.client.keys("*")
        if not key.startswith((b"ms:sweep", b"ms:due", b"ms:census", b"ms:trend"))
    ]
    return {key: await store.client.pttl(key) for key in listed if b"{w:" not in key}


async def test_an_archived_run_reads_as_before(
    store: Store, finished: Finishing, sweeper: Sweeper, runs: AsyncRuns
) -> None:
    """A run whose keys are gone is read, listed, followed and answered as a thread's message, byte for byte."""
    run_id = await finished(thread_id="t")
    before = await runs.get(run_id)
    said = await runs.messages("t")
    await sweeper.sweep()
    (marker, lives_ms), *others = (await left(store)).items()  # whose the thread is, for a minute
    assert (others, marker.endswith(b":thread"), 0 < lives_ms <= 60_000) == ([], True, True)
    assert await runs.get(run_id) == before
    assert (await runs.list(thread_id="t")).runs == (await runs.list()).runs == [before]
    assert await runs.messages("t") == said
    assert [event.type async for event in runs.events(run_id)] == ["snapshot", "run.finished"]
    assert [event async for event in runs.events(run_id, before.cursor)] == []
    assert (await runs.abort(run_id)).outcome == "already_finished"
    with pytest.raises(errors.NotFound):
        await runs.get(run_id, user_id="somebody else")


async def test_lists_merge_both(store: Store, finished: Finishing, sweeper: Sweeper, runs: AsyncRuns) -> None:
    """Pages go through archived and live runs in order of creation, each run once, whatever has moved meanwhile."""
    ids = [await finished(thread_id=f"t{number % 3}") for number in range(7)]
    await sweeper.sweep()
    ids += [await finished(thread_id=f"t{number % 3}") for number in range(7)]
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


async def test_an_unavailable_archive_loses_nothing(
    store_url: str, settings: Settings, tmp_path: Path, runs: AsyncRuns
) -> None:
    """While the archive cannot be reached runs stay in the store, readable; later they move."""
    (tmp_path / "away").mkdir()
    address = Settings(archive_url=f"sqlite:///{tmp_path}/away/nothing/archive.db")
    away = settings.model_copy(update={"archive_url": address.archive_url})
    store = Store(store_url, archive=archive.connect(address))
    try:
        operations = Operations(store=store, settings=away, publisher=Messages())
        run_id = await Finishing(operations)()
        sweeper = Sweeper(operations=operations, owner=lambda: "s")
        await sweeper.sweep()
        assert await store.client.zcard(keys.run(run_id).compact) == 1
        assert (await runs.get(run_id)).text == "w0 w1 w2"
        with pytest.raises(errors.ArchiveUnavailable):
            await transitions.find(store, run_id[:-1] + ("a" if run_id[-1] != "a" else "b"))
        (tmp_path / "away" / "nothing").mkdir()
        await store.client.zadd(keys.run(run_id).compact, {run_id: now_ms() - 1})
        sweeper.archiver._unavailable_until = 0
        await sweeper.sweep()
        assert await store.client.zcard(keys.run(run_id).compact) == 0
        assert store.archive is not None
        assert await store.archive.count() == 1
    finally:
        await store.close()


async def test_many_ask_at_once(store: Store, finished: Finishing, sweeper: Sweeper, runs: AsyncRuns) -> None:
    """Readers of the same and of different runs get theirs."""
    ids = [await finished() for _ in range(5)]
    await sweeper.sweep()
    found = await asyncio.gather(*(runs.get(run_id) for run_id in ids * 3))
    assert [run.run_id for run in found] == ids * 3
