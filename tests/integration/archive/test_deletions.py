"""Deletions reach the archive, the store and files, whatever moves meanwhile and wherever a process dies."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import archive, errors
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.rows import row_of
from mainstem_shared.archive.selections import DeletedRun
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.files import Files
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import deleting
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.archiving import Archiver
from mainstem_shared.operations.blob_collection import BlobCollector
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes import dying_process
from support.processes.dying_process import Died, Life, Messages

STEPS = (0, 0, 0, 1, 1, 1)
ORDERS = sorted(set(itertools.permutations(STEPS)))
"""Every order of an archiver's three steps and a deletion's three."""
HOT_S = 600


@pytest.fixture(params=["sqlite", "postgresql"])
def archive_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases: an upsert's condition is theirs to keep."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/archive.db"
    return request.getfixturevalue("postgresql_url")


async def with_file(operations: Operations, run_id: str) -> str:
    await operations.files.put(run_id, b"a file", "text/plain")
    return run_id


def files(settings: Settings) -> list[str]:
    return sorted(drivers.of(settings).older_than(-60))


async def is_gone(store: Store, kept: Archive, run_id: str) -> bool:
    """Whether nothing of a run can be found by anybody."""
    names = keys.run(run_id)
    stored = await store.client.exists(names.record, names.log)
    listed = [
        await store.client.zscore(key, run_id) for key in (names.thread_runs, names.recent, names.compact)
    ]
    return not stored and listed == [None] * 3 and await kept.get(run_id) is None


async def test_a_deletion_beats_a_late_upsert(
    store: Store, kept: Archive, operations: Operations, finished: Finishing, settings: Settings
) -> None:
    """In every order of the steps of archiving and of deleting a run it is gone in the end, with its files."""
    for order in ORDERS:
        run_id = await with_file(operations, await finished(thread_id="t"))
        steps = archiving(operations, kept, run_id), deletion(operations, kept, run_id)
        for which in order:
            await next(steps[which])
        assert await is_gone(store, kept, run_id), order
        assert files(settings) == [], order
    assert await kept.count() == 0


def archiving(operations: Operations, kept: Archive, run_id: str) -> Iterator[Awaitable[Any]]:
    """The steps of an archiver that is slow between any two of them."""
    archiver, found = Archiver(operations), dict[str, Any]()

    async def read() -> None:
        found["stored"], _ = await archiver._read([run_id])

    async def put() -> None:
        found["deleted"], refused = await kept.put_each([row_of(run) for run in found["stored"]])
        assert not refused

    yield read()
    yield put()
    yield archiver._let_go(found["stored"], found["deleted"])


def deletion(operations: Operations, kept: Archive, run_id: str) -> Iterator[Awaitable[Any]]:
    """The steps of a deletion."""
    deleted = DeletedRun(run_id=run_id, tenant="default", user_id="local")
    yield kept.deletions.delete([deleted])
    yield deleting._clear(operations, deleted)
    yield kept.deletions.cleared([run_id])


@pytest.mark.parametrize("what", ["thread", "user", "runs"])
async def test_a_deletion_reaches_everything(
    what: str, store: Store, kept: Archive, operations: Operations, sweeper: Sweeper, finished: Finishing,
    runs: AsyncRuns, settings: Settings,
) -> None:  # fmt: skip
    """A run that is archived, archived and still in the store, or only in the store: all is deleted, files too."""
    run_ids = await three_kinds(operations, sweeper, finished)
    others = await with_file(operations, await finished(thread_id="other", user_id="bob"))
    await runs.describe_thread("t", {"title": "secret"})
    match what:
        case "thread":
            assert await runs.delete_thread("t", user_id="local") == 3
        case "user":
            assert await runs.delete_user("local") == 3
        case _:
            for run_id in run_ids:
                await runs.delete(run_id, user_id="local")
    for run_id in run_ids:
        assert await is_gone(store, kept, run_id)
        with pytest.raises(errors.NotFound):
            await runs.get(run_id)
        with pytest.raises(errors.NotFound):
            await runs.delete(run_id)
    assert files(settings) == [others]
    assert (await runs.list(user_id="local")).runs == []
    assert await kept.deletions.uncleared(before_ms=now_ms() + 1000) == []
    if what != "runs":
        await finished(thread_id="t")
        ((thread,), _) = await runs.threads()
        assert thread.description.title != "secret"
        assert (await runs.describe_thread("t", {"title": "mine"})).title == "mine"


async def three_kinds(operations: Operations, sweeper: Sweeper, finished: Finishing) -> list[str]:
    """A run that is archived, one that is in the store besides, one that is only there; with a file each."""
    run_ids: list[str] = []
    for hot_s in (0, HOT_S, None):
        run_ids.append(await with_file(operations, await finished(thread_id="t")))
        if hot_s is not None:
            settings = operations.settings.model_copy(update={"archive_hot_s": hot_s})
            hot = Operations(store=operations.store, settings=settings, publisher=operations.publisher)
            assert await Archiver(hot).archive(run_ids[-1:]) == run_ids[-1:]
    names = [keys.run(run_id).record for run_id in run_ids]
    assert [await operations.store.client.exists(name) for name in names] == [0, 1, 1]
    return run_ids


class MortalFolder(drivers.Folder):
    """Files of a process that dies."""

    life: Life

    def drop(self, run_id: str) -> None:
        if not self.life.spend():
            raise Died
        super().drop(run_id)


def mortal(store_url: str, settings: Settings, commands: int) -> Operations:
    """What a process changes runs with that dies after so many writes to store, archive and files."""
    life = Life(commands)
    store = dying_process.store(store_url, life)
    kept = store.archive = archive.connect(settings)
    assert kept is not None
    write = kept.write

    async def mortal_write(work: Callable[[Any], Awaitable[Any]]) -> Any:
        if not life.spend():
            raise Died
        return await write(work)

    kept.write = mortal_write  # type: ignore[method-assign]
    operations = Operations(store=store, settings=settings, publisher=Messages(life))
    folder = MortalFolder(Path(str(settings.blob_url).removeprefix("file://")))
    folder.life = life
    object.__setattr__(operations, "files", Files(settings, folder))
    return operations


async def test_a_deleter_that_dies_leaves_nothing_undeleted(
    store: Store, store_url: str, kept: Archive, operations: Operations, sweeper: Sweeper,
    finished: Finishing, runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed at any write: what has a tombstone is gone for good after a sweep; repeated, the deletion is whole."""
    monkeypatch.setattr(deleting, "ABANDONED_MS", -1000)
    monkeypatch.setattr(deleting, "AT_ONCE", 1)  # the dead do nothing in other tasks, either
    for commands in itertools.count():
        run_ids = await three_kinds(operations, sweeper, finished)
        dying = mortal(store_url, settings, commands)
        died = False
        try:
            await Deleter(aborter=Aborter(operations=dying)).delete_thread(
                "t", tenant="default", user_id=None
            )
        except Died:
            died = True
        finally:
            await dying.store.close()
        left = await kept.known(run_ids)
        stored = [run_id for run_id in run_ids if await store.client.exists(keys.run(run_id).record)]
        uncleared = {one.run_id for one in await kept.deletions.uncleared(before_ms=now_ms() + 1000)}
        assert not left & uncleared
        await deleting.finish_deletions(operations)
        for run_id in uncleared:
            assert await is_gone(store, kept, run_id)
        if died and (left or set(stored) - uncleared):
            await runs.delete_thread("t")
        for run_id in run_ids:
            assert await is_gone(store, kept, run_id), (commands, run_id)
        assert files(settings) == [], commands
        assert await kept.deletions.uncleared(before_ms=now_ms() + 1000) == []
        if not died:
            break
    assert commands > 12


async def test_an_archiver_that_dies_archives_once(
    store: Store, store_url: str, kept: Archive, operations: Operations, sweeper: Sweeper,
    finished: Finishing, runs: AsyncRuns, settings: Settings,
) -> None:  # fmt: skip
    """Killed at any write: the run is read all the time, and after the next sweep archived, once, and let go."""
    for commands in itertools.count():
        run_id = await with_file(operations, await finished())
        before = await runs.get(run_id)
        dying = mortal(store_url, settings, commands)
        died = False
        try:
            await Archiver(dying).archive([run_id])
        except Died:
            died = True
        finally:
            await dying.store.close()
        assert await runs.get(run_id) == before
        assert [run.run_id for run in (await runs.list(user_id="local", limit=1)).runs] == [run_id]
        await finished.due(run_id)
        await sweeper.sweep()
        assert await runs.get(run_id) == before
        assert not await store.client.exists(keys.run(run_id).record)
        assert await kept.count() == commands + 1
        if not died:
            break
    assert commands >= 3


async def test_files_are_kept_as_long_as_their_run(
    store: Store, operations: Operations, sweeper: Sweeper, finished: Finishing, settings: Settings,
    kept: Archive, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The collector keeps files of archived runs, and removes what nobody has; an archive that is away keeps all."""
    old = settings.model_copy(update={"retention_s": -60.0})
    collector = BlobCollector(store, old)
    monkeypatch.setattr("mainstem_shared.operations.blob_collection.SLICE", 2)
    run_ids = [await with_file(operations, await finished(thread_id=f"t{n}")) for n in range(5)]
    await sweeper.sweep()
    assert await collector.collect() == 0
    await kept.deletions.delete([DeletedRun(run_id=run_id) for run_id in run_ids[3:]])  # and died

    async def away(_: object) -> set[str]:
        raise errors.ArchiveUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(kept, "known", away)
        assert await collector.collect() == 0
    assert await collector.collect() == 2
    assert files(settings) == sorted(run_ids[:3])


async def test_what_is_archived_late_changes_nothing(
    kept: Archive, operations: Operations, sweeper: Sweeper, finished: Finishing, runs: AsyncRuns
) -> None:
    """A slow archiver puts nothing over a later change or a later epoch, and brings no deleted run back."""
    run_id = await finished(thread_id="t")
    stored, _ = await Archiver(operations)._read([run_id])
    row = row_of(stored[0])
    await sweeper.sweep()
    await runs.describe(run_id, {"title": "new"})
    assert await kept.put([row]) == set()
    assert (await runs.get(run_id)).title == "new"
    later = {**row, "archived_ms": now_ms() + 60_000}
    assert await kept.put([{**later, "epoch": row["epoch"] - 1}]) == set()
    assert (await runs.get(run_id)).title == "new"
    waiting = await finished(thread_id="t")
    stored, _ = await Archiver(operations)._read([waiting])
    assert await runs.delete_thread("t") == 2
    assert await kept.put([{**row_of(stored[0]), "epoch": 1 << 40}, later]) == {run_id, waiting}
    assert await kept.count() == 0
