"""Deletes archived runs, tombstone first: the tombstone also refuses a late write of the same run.

A tombstone is *uncleared* (column `doomed`) until the run's keys and files are removed elsewhere, too, and
`cleared` is called: if the process dies before, a sweeper finds it (`uncleared`) and does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstem_shared.archive.selections import DeletedRun, Selection
from mainstem_shared.archive.tables import RUNS, THREADS
from mainstem_shared.model.time import now_ms

if TYPE_CHECKING:
    from mainstem_shared.archive.connection import Connection

SLICE: Final = 500
_OWNER: Final = ("run_id", "tenant", "user_id", "thread_id")
_EMPTIED: Final = {
    column.name: None
    for column in RUNS.c
    if column.name not in (*_OWNER, "created_ms", "deleted_ms", "doomed")
}
_FORGOTTEN: Final = {"tenant": None, "user_id": None, "thread_id": None, "created_ms": None, "doomed": None}


def _condition(selection: Selection) -> ColumnElement[bool]:
    """Return the condition that the selected runs meet.

    Raises:
        ValueError: it is met by all runs of a tenant.
    """
    named = {"thread_id": selection.thread_id, "user_id": selection.user_id, "run_id": selection.run_id}
    wanted = [RUNS.c[name] == value for name, value in named.items() if value is not None]
    if not wanted:
        raise ValueError("nobody deletes a whole tenant by mistake")
    return and_(RUNS.c.tenant == selection.tenant, RUNS.c.deleted_ms.is_(None), *wanted)


class Deletions:
    """The deletions of one archive. Each method may be repeated; each may raise ArchiveUnavailable."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def delete(self, runs: Sequence[DeletedRun]) -> None:
        """Replace runs by tombstones, which refuse later writes of them: also runs that are not here yet."""
        insert, now = self._database.insert(RUNS), now_ms()
        new = insert.excluded
        owner = {name: new[name] for name in _OWNER[1:]}
        tomb = insert.on_conflict_do_update(
            index_elements=[RUNS.c.run_id], set_={**_EMPTIED, **owner, "deleted_ms": now, "doomed": 1}
        )
        made = [
            {
                "run_id": one.run_id,
                "tenant": one.tenant,
                "user_id": one.user_id,
                "thread_id": one.thread_id,
                "deleted_ms": now,
                "doomed": 1,
            }
            for one in runs
        ]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(tomb, made)

        if made:
            await self._database.write(work)

    async def delete_some(self, selection: Selection, *, limit: int = SLICE) -> list[DeletedRun]:
        """Delete some of the selected runs; returns them, none once all are deleted."""
        some = select(RUNS.c.run_id).where(_condition(selection)).limit(limit)
        return await self._delete_where(RUNS.c.run_id.in_(some))

    async def tenants(self) -> list[str]:
        """Return the tenants that have archived runs, one short query each: there are few, and many runs."""
        found: list[str] = []
        while True:
            query = select(func.min(RUNS.c.tenant).label("tenant"))
            if found:
                query = query.where(RUNS.c.tenant > found[-1])
            following = (await self._database.read(query))[0]["tenant"]
            if following is None:
                return found
            found.append(following)

    async def delete_before(self, tenant: str, before_ms: int, *, limit: int = SLICE) -> list[DeletedRun]:
        """Delete some of a tenant's runs that ended before then; returns them."""
        is_old = (RUNS.c.tenant == tenant, RUNS.c.created_ms < before_ms, RUNS.c.finished_ms < before_ms)
        some = select(RUNS.c.run_id).where(*is_old, RUNS.c.deleted_ms.is_(None)).limit(limit)
        return await self._delete_where(RUNS.c.run_id.in_(some))

    async def _delete_where(self, condition: ColumnElement[bool]) -> list[DeletedRun]:
        gone = (
            update(RUNS)
            .where(condition, RUNS.c.deleted_ms.is_(None))
            .values(**_EMPTIED, deleted_ms=now_ms(), doomed=1)
            .returning(*(RUNS.c[name] for name in _OWNER))
        )

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(gone)).mappings().all()

        return [DeletedRun(**row) for row in await self._database.write(work)]

    async def clear_descriptions(self, selection: Selection, thread_ids: Sequence[str] = ()) -> None:
        """Clear the titles, labels and metadata of threads of which nobody else has an archived run.

        They are the threads of the selected runs, and those that `thread_ids` names.
        """
        meant = select(RUNS.c.thread_id).where(_condition(selection)).distinct()
        others = select(RUNS.c.thread_id).where(
            RUNS.c.tenant == selection.tenant,
            RUNS.c.deleted_ms.is_(None),
            RUNS.c.user_id != selection.user_id,
        )
        condition = or_(THREADS.c.thread_id.in_(meant), THREADS.c.thread_id.in_(list(thread_ids)))
        if selection.user_id is not None:
            condition = and_(condition, THREADS.c.thread_id.not_in(others.where(RUNS.c.thread_id.in_(meant))))
        gone = (
            update(THREADS)
            .where(THREADS.c.tenant == selection.tenant, condition)
            .values(title=None, labels=None, metadata=None, deleted_ms=now_ms())
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(gone)

        await self._database.write(work)

    async def uncleared(self, *, before_ms: int, after: str = "", limit: int = SLICE) -> list[DeletedRun]:
        """Return some runs that were deleted before then, and of which something may be left elsewhere.

        They come in the order of their ids, those after one.
        """
        query = (
            select(*(RUNS.c[name] for name in _OWNER))
            .where(RUNS.c.doomed == 1, RUNS.c.deleted_ms < before_ms, RUNS.c.run_id > after)
            .order_by(RUNS.c.run_id)
            .limit(limit)
        )
        return [DeletedRun(**row) for row in await self._database.read(query)]

    async def cleared(self, run_ids: Sequence[str]) -> None:
        """Note that nothing is left of deleted runs anywhere, and forget whose they were."""
        clear = update(RUNS).where(RUNS.c.run_id.in_(run_ids), RUNS.c.deleted_ms.is_not(None))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(clear.values(**_FORGOTTEN))

        if run_ids:
            await self._database.write(work)

    async def drop_tombstones(self, *, before_ms: int) -> int:
        """Remove tombstones of runs that were deleted before then; returns how many."""
        old = delete(RUNS).where(RUNS.c.deleted_ms < before_ms, RUNS.c.doomed.is_(None))

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(old)).rowcount

        return await self._database.write(work)
