"""Reads and writes what the archive keeps of threads: their user, newest run, title, labels, metadata.

Where there is an archive, it has what people say about threads: title, labels, metadata. Runs have their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstem_shared.archive.tables import RUNS, THREADS

if TYPE_CHECKING:
    from mainstem_shared.archive.connection import Connection

NAMES: Final = ("title", "labels", "metadata")
_READY_OF_ALL: Final = (
    select(RUNS.c.run_id, RUNS.c.archived_ms, RUNS.c.messages)
    .where(
        RUNS.c.tenant == bindparam("tenant"),
        RUNS.c.thread_id == bindparam("thread_id"),
        RUNS.c.deleted_ms.is_(None),
    )
    .order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc())
    .limit(bindparam("most"))
)
_READY_OF_USER: Final = _READY_OF_ALL.where(RUNS.c.user_id == bindparam("user_id"))


class Threads:
    """The threads of one archive. Each method may be repeated; each may raise ArchiveUnavailable."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def owner(self, tenant: str, thread_id: str) -> str | None:
        """Return whose the newest archived run of a thread is; None if there is none."""
        query = (
            select(RUNS.c.user_id)
            .where(RUNS.c.tenant == tenant, RUNS.c.thread_id == thread_id, RUNS.c.deleted_ms.is_(None))
            .order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc())
            .limit(1)
        )
        found = await self._database.read(query)
        return found[0]["user_id"] if found else None

    async def specs(self, tenant: str, thread_id: str, *, limit: int) -> list[tuple[int, str, bytes]]:
        """Return creation time, id and spec of a thread's archived runs, the newest first: no content."""
        query = (
            select(RUNS.c.created_ms, RUNS.c.run_id, RUNS.c.spec)
            .where(RUNS.c.tenant == tenant, RUNS.c.thread_id == thread_id, RUNS.c.deleted_ms.is_(None))
            .order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc())
            .limit(limit)
        )
        found = await self._database.read(query)
        return [(row["created_ms"], row["run_id"], bytes(row["spec"])) for row in found]

    async def ready(
        self, tenant: str, thread_id: str, *, user_id: str | None, limit: int
    ) -> Sequence[tuple[str, int, bytes | None]]:
        """Return id, time of archiving, and messages of a thread's archived runs, the newest first."""
        query = _READY_OF_ALL if user_id is None else _READY_OF_USER
        given = {"tenant": tenant, "thread_id": thread_id, "user_id": user_id, "most": limit}
        if user_id is None:
            del given["user_id"]
        return await self._database.rows(query, given)

    async def newest(
        self, *, tenant: str, user_id: str, thread_ids: Sequence[str]
    ) -> dict[str, tuple[int, str]]:
        """Return creation time and id of a user's newest archived run on each of these threads."""
        if not thread_ids:
            return {}
        order = (RUNS.c.created_ms.desc(), RUNS.c.run_id.desc())
        number = func.row_number().over(partition_by=RUNS.c.thread_id, order_by=order).label("number")
        numbered = (
            select(RUNS.c.thread_id, RUNS.c.created_ms, RUNS.c.run_id, number)
            .where(
                RUNS.c.tenant == tenant,
                RUNS.c.user_id == user_id,
                RUNS.c.thread_id.in_(thread_ids),
                RUNS.c.deleted_ms.is_(None),
            )
            .subquery()
        )
        found = await self._database.read(select(numbered).where(numbered.c.number == 1))
        return {row["thread_id"]: (row["created_ms"], row["run_id"]) for row in found}

    async def described(self, tenant: str, thread_ids: Sequence[str]) -> dict[str, list[bytes | None]]:
        """Return what is said about threads, in the order of NAMES, of those that somebody described."""
        if not thread_ids:
            return {}
        query = select(THREADS).where(
            THREADS.c.tenant == tenant, THREADS.c.thread_id.in_(thread_ids), THREADS.c.deleted_ms.is_(None)
        )
        found = await self._database.read(query)
        return {row["thread_id"]: [row[name] for name in NAMES] for row in found}

    async def describe(
        self, tenant: str, thread_id: str, changes: Mapping[str, bytes | None], *, born_ms: int
    ) -> bool:
        """Change what is said about a thread (None clears); False if it was deleted after `born_ms`.

        That is when the run was created by which the caller knows the thread.
        """
        insert = self._database.insert(THREADS)
        is_alive = or_(THREADS.c.deleted_ms.is_(None), THREADS.c.deleted_ms < born_ms)
        upsert = (
            insert.values(tenant=tenant, thread_id=thread_id, **changes)
            .on_conflict_do_update(
                index_elements=[THREADS.c.tenant, THREADS.c.thread_id],
                set_={**changes, "deleted_ms": None},
                where=is_alive,
            )
            .returning(THREADS.c.thread_id)
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(upsert)).first() is not None

        return await self._database.write(work)

    async def keep(self, described: Sequence[dict[str, Any]]) -> None:
        """Keep what the store has of threads that nobody described, or deleted, here."""
        insert = self._database.insert(THREADS).on_conflict_do_nothing(
            index_elements=[THREADS.c.tenant, THREADS.c.thread_id]
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert, list(described))

        if described:
            await self._database.write(work)
