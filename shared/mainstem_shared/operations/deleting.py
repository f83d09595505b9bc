"""Deletes a thread's or a user's data: aborts its runs, and takes those that do not stop in time.

The archive's tombstone comes before the store's keys go, and files last. A process that dies on the way
leaves a tombstone that says so: a sweeper does the rest (`finish_deletions`), as repeating the call does.
Without an archive nobody knows of a run without its record: files go first, and the call has to be repeated.
Content never outlives a run's record: entries that a crash leaves in indexes are of a run that is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.archive.selections import DeletedRun, Selection
from mainstem_shared.model import contents
from mainstem_shared.model.principals import DEFAULT_TENANT, Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Spec, WaitingFor
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import performing, undelivered_callbacks, uploads
from mainstem_shared.operations.aborting import Aborter, AbortOutcome, end_by_force
from mainstem_shared.operations.performing import FORGET, Operations, nobody
from mainstem_shared.operations.queries import listings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

WAIT_S: Final = 5.0
"""How long a running run may take to end by itself before it is taken from its owner."""
BATCH: Final = 200
AT_ONCE: Final = 16
START_GRACE_MS: Final = 60_000
ABANDONED_MS: Final = 60_000
"""A deletion that is not through by then was given up by whoever began it."""
ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    run_id: str
    spec: Spec | None
    """None: the record is damaged, and nobody can tell any more whose it was."""
    waits: bool
    """Whether it waits behind another run of its thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleter:
    """Deletes with an aborter that holds a lease: it takes runs from owners that do not let go."""

    aborter: Aborter
    wait_s: float = WAIT_S

    @property
    def _store(self) -> Store:
        return self.aborter.operations.store

    async def delete_thread(self, thread_id: str, *, tenant: str, user_id: str | None) -> int:
        """Delete all runs of a thread that are the user's (None: any user's); returns how many.

        Runs that are started meanwhile stay.

        Raises:
            NotFound: there is nothing of theirs.
        """
        index = keys.thread_runs(tenant, thread_id)
        raw = await self._store.command("ZRANGE", index, 0, -1, large=True)
        listed = [run_id.decode() for run_id in raw]
        found = await self._find(listed)
        mine = [f for f in found if _may_delete(f.spec, tenant, user_id)]
        selection = Selection(tenant=tenant, thread_id=thread_id, user_id=user_id)
        if self._store.archive is not None and len(mine) == len(found):
            await self._store.archive.deletions.clear_descriptions(selection, [thread_id])
        await self._delete(mine, owner=(tenant, user_id))
        archived = await self._delete_archived(selection)
        if not mine and not archived:
            raise errors.NotFound("No such thread.")
        for expired in set(listed) - {f.run_id for f in found}:
            await self._forget(expired, (tenant, user_id))
            await self._drop_files(expired)
        return len(mine) + archived

    async def _delete_archived(self, selection: Selection) -> int:
        """Delete what the archive lists; returns how many runs. Their records may still be in the store."""
        if self._store.archive is None:
            return 0
        count = 0
        while deleted := await self._store.archive.deletions.delete_some(selection):
            await clear(self.aborter.operations, deleted)
            count += len(deleted)
        return count

    async def delete_run(self, run_id: str, *, tenant: str, user_id: str | None) -> None:
        """Delete one run; those that wait behind it go on.

        Raises:
            NotFound: it does not exist, or it is not theirs.
        """
        found = [f for f in await self._find([run_id]) if _may_delete(f.spec, tenant, user_id)]
        await self._delete(found, owner=(tenant, user_id))
        archived = await self._delete_archived(Selection(tenant=tenant, user_id=user_id, run_id=run_id))
        if not found and not archived:
            raise errors.NotFound

    async def delete_user(self, *, tenant: str, user_id: str) -> int:
        """Delete a user's runs, on all threads, their callbacks, and uploads; returns how many runs."""
        indexes, count = self.aborter.operations.indexes, 0
        for _ in range(ROUNDS):  # also what was started meanwhile
            entries = await indexes.of_user(tenant, user_id)
            found = await self._find(list(entries))
            await self._clear_descriptions(found, Selection(tenant=tenant, user_id=user_id))
            await self._delete(found, owner=(tenant, user_id))
            count += len(found)
            gone = set(entries) - {f.run_id for f in found}
            old = [run_id for run_id in gone if now_ms() - entries[run_id] > START_GRACE_MS]
            for run_id in old:
                await self._drop_files(run_id)
            await indexes.drop_of_user(tenant, user_id, old)
            if not found:
                break
        count += await self._delete_archived(Selection(tenant=tenant, user_id=user_id))
        await undelivered_callbacks.drop_of_user(self._store, tenant=tenant, user_id=user_id)
        await uploads.delete_all(self.aborter.operations, Principal(user_id=user_id, tenant=tenant))
        return count

    async def _clear_descriptions(self, found: list[_Found], selection: Selection) -> None:
        if self._store.archive is not None:
            threads = sorted({f.spec.thread_id for f in found if f.spec is not None})
            await self._store.archive.deletions.clear_descriptions(selection, threads)

    async def _find(self, run_ids: list[str]) -> list[_Found]:
        found: list[_Found] = []
        for first in range(0, len(run_ids), BATCH):
            batch = run_ids[first : first + BATCH]
            records = await transitions.read_many(self._store, batch, Record.spec, Record.waiting_for)
            for run_id, record in zip(batch, records, strict=True):
                if not isinstance(record, transitions.Gone):
                    found.append(_found(run_id, record))
        return found

    async def _delete(self, found: list[_Found], *, owner: tuple[str, str | None]) -> None:
        # Those that wait first: else ending the one that holds the thread would start the next.
        for waits in (True, False):
            group = [f for f in found if f.waits is waits]
            for first in range(0, len(group), AT_ONCE):
                batch = (self._delete_run(f, owner) for f in group[first : first + AT_ONCE])
                for failure in await asyncio.gather(*batch, return_exceptions=True):
                    if failure is not None:
                        raise failure

    async def _delete_run(self, found: _Found, owner: tuple[str, str | None]) -> None:
        run_id, spec = found.run_id, found.spec
        tenant, user_id = owner if spec is None else (spec.tenant, spec.user_id)
        deleted = DeletedRun(
            run_id=run_id, tenant=tenant, user_id=user_id, thread_id=None if spec is None else spec.thread_id
        )
        await self._end(run_id)
        if self._store.archive is not None:
            await self._store.archive.deletions.delete([deleted])  # first: from now on no sweeper archives it
        await clear(self.aborter.operations, [deleted])
        logger.info("run deleted", extra={"action": "run_deleted", "run_id": run_id})

    async def _forget(self, run_id: str, owner: tuple[str, str | None]) -> bool:
        forget = FORGET.of(run_id, owner=owner, keep_memory=self._store.archive is not None)
        return await self.aborter.operations.perform(forget, notify=nobody)

    async def _drop_files(self, run_id: str) -> None:
        """Remove the files of a run whose record is gone; what the archive has is not judged by that."""
        if self._store.archive is None:
            await self.aborter.operations.files.drop(run_id)

    async def _end(self, run_id: str) -> None:
        try:
            done = await self.aborter.abort(run_id, reason=Reason.THREAD_DELETED, wait_s=self.wait_s)
        except errors.NotFound:
            return
        except contents.UNREADABLE as error:
            listings.cannot_read(run_id, error)  # what cannot be ended can still be forgotten
            return
        if done.outcome is AbortOutcome.PENDING:
            await end_by_force(self.aborter, run_id, reason=Reason.THREAD_DELETED)


async def clear(operations: Operations, deleted: Sequence[DeletedRun]) -> None:
    """Remove what store and blobs have of runs that are deleted; the archive forgets whose they were.

    A run that fails keeps no other: the rest is removed, and what failed is raised then.

    Raises:
        StoreUnavailable: also if a run is at work again: its end was lost, and somebody has to end it first.
    """
    failures: list[BaseException] = []
    cleared: list[DeletedRun] = []
    for first in range(0, len(deleted), AT_ONCE):
        batch = deleted[first : first + AT_ONCE]
        done = await asyncio.gather(*(_clear(operations, one) for one in batch), return_exceptions=True)
        failures += [failure for failure in done if failure is not None]
        cleared += [one for one, failure in zip(batch, done, strict=True) if failure is None]
        if None not in done:
            break  # nothing of it succeeds: the store does not answer, or refuses
    await _forget_cleared(operations, cleared)
    if failures:
        raise failures[0]


async def _forget_cleared(operations: Operations, deleted: Sequence[DeletedRun]) -> None:
    archive = operations.store.archive
    if archive is None or not deleted:
        return
    threads = sorted({(one.tenant or DEFAULT_TENANT, one.thread_id) for one in deleted if one.thread_id})
    for tenant, thread_id in threads:  # of runs that only the store has, the last one takes memories along
        if await archive.threads.owner(tenant, thread_id) is None:
            await transitions.erase(operations.store, tenant, thread_id)
    await archive.deletions.cleared([one.run_id for one in deleted])


async def _clear(operations: Operations, deleted: DeletedRun) -> None:
    owner, archived = (
        (deleted.tenant or DEFAULT_TENANT, deleted.user_id),
        operations.store.archive is not None,
    )
    forget = FORGET.of(deleted.run_id, owner=owner, keep_memory=archived)
    if not archived:
        await operations.files.drop(
            deleted.run_id
        )  # first: afterwards nobody finds them who repeats the call
    if not await operations.perform(forget, notify=nobody):
        raise performing.contended()
    await operations.files.drop(deleted.run_id)  # without an archive again: its last segment may have put one


async def finish_deletions(operations: Operations) -> int:
    """Do the rest of deletions whose process died on the way; returns of how many runs.

    What cannot be done yet is left for the next time, and what comes after it is done.

    Raises:
        ArchiveUnavailable: some are done.
    """
    archive, count = operations.store.archive, 0
    if archive is None:
        return 0
    before_ms, after = now_ms() - ABANDONED_MS, ""
    while deleted := await archive.deletions.uncleared(before_ms=before_ms, after=after):
        after = deleted[-1].run_id
        count += len(deleted) if await clear_or_leave(operations, deleted) else 0
    return count


async def clear_or_leave(operations: Operations, deleted: Sequence[DeletedRun]) -> bool:
    """Do the same as `clear`, but leave what fails to the next sweep; returns whether nothing was left."""
    try:
        await clear(operations, deleted)
    except (errors.StoreUnavailable, OSError):
        noted = {"action": "deletion_waits", "runs": len(deleted)}
        logger.warning("some deletions cannot be finished yet", extra=noted, exc_info=True)
        return False
    return True


def _found(run_id: str, record: Record) -> _Found:
    try:
        waits = record.waiting_for is WaitingFor.THREAD
        return _Found(run_id=run_id, spec=record.spec, waits=waits)
    except contents.UNREADABLE as error:
        listings.cannot_read(run_id, error)
        return _Found(run_id=run_id, spec=None, waits=False)


def _may_delete(spec: Spec | None, tenant: str, user_id: str | None) -> bool:
    """Tell whether a thread's run is the user's to delete; a damaged one is only for who may delete any."""
    if spec is None:
        return user_id is None
    return spec.tenant == tenant and user_id in (None, spec.user_id)
