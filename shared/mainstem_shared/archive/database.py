"""The `Archive` puts finished runs into an SQL database and finds them again.

Every call may be repeated. A run that was deleted (`deletions`) is never put again, whoever read it from the
store before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Final

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstem_shared.archive import rows, upserts
from mainstem_shared.archive.connection import Connection, RowRefused
from mainstem_shared.archive.deletions import Deletions
from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.archive.tables import RUNS
from mainstem_shared.archive.threads import Threads
from mainstem_shared.model.record import Record
from mainstem_shared.model.time import now_ms

_CONTENT: Final = [RUNS.c[name] for name in ("run_id", *rows.CONTENT)]
Position = tuple[int, str]
"""Creation time (ms) and id of a run, which together order all runs."""


class Archive(Connection):
    """Reads and writes the archive for one process."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._wanted: dict[str, asyncio.Future[StoredRun | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    @cached_property
    def deletions(self) -> Deletions:
        """The deletions of this archive."""
        return Deletions(self)

    @cached_property
    def threads(self) -> Threads:
        """The threads of this archive."""
        return Threads(self)

    # -- writing

    async def put(self, runs: Sequence[dict[str, Any]]) -> set[str]:
        """Keep finished runs (`rows.row_of`), in one transaction; returns those that were deleted before.

        A run that is there already is replaced, unless what is there is of a later epoch, or was read, or
        changed here, later.

        Raises:
            RowRefused: at least one of them cannot be kept; none is.
            ArchiveUnavailable: all or none of them are kept.
        """
        ids = [row["run_id"] for row in runs]
        dead = select(RUNS.c.run_id).where(RUNS.c.run_id.in_(ids), RUNS.c.deleted_ms.is_not(None))

        async def work(connection: AsyncConnection) -> set[str]:
            taken = sum([await upserts.put(connection, slice_) for slice_ in upserts.slices(runs)])
            # As many rows as runs: none of them stands behind a tombstone.
            return set() if taken == len(ids) else set((await connection.execute(dead)).scalars())

        return await self.write(work)

    async def put_each(self, runs: Sequence[dict[str, Any]]) -> tuple[set[str], set[str]]:
        """Keep as many of these runs as the database takes; returns those deleted before, and those refused.

        A slice that is refused is halved until the runs stand alone that the database does not take.

        Raises:
            ArchiveUnavailable: some of them are kept.
        """
        if not runs:
            return set(), set()
        try:
            return await self.put(runs), set()
        except RowRefused:
            if len(runs) == 1:
                return set(), {runs[0]["run_id"]}
        half = len(runs) // 2
        first, second = await self.put_each(runs[:half]), await self.put_each(runs[half:])
        return first[0] | second[0], first[1] | second[1]

    async def describe(
        self,
        run_id: str,
        changes: dict[str, bytes | None],
        *,
        ready: Callable[[StoredRun, int], bytes | None] | None = None,
    ) -> bool:
        """Change what people say about a run (None clears); False if it is not here.

        `ready` makes the messages anew that the row keeps, as of a time.

        Raises:
            ArchiveUnavailable: changed or not.
        """
        is_here = and_(RUNS.c.run_id == run_id, RUNS.c.deleted_ms.is_(None))

        async def work(connection: AsyncConnection) -> bool:
            query = select(*_CONTENT, RUNS.c.archived_ms).where(is_here).with_for_update()
            found = (await connection.execute(query)).mappings().one_or_none()
            if found is None:
                return False
            record, stamp = rows.described(found["record"], changes), max(now_ms(), found["archived_ms"] + 1)
            made = ready and ready(rows.run_of(run_id, {**found, "record": record}), stamp)
            change = update(RUNS).where(is_here).values(record=record, archived_ms=stamp, messages=made)
            await connection.execute(change)
            return True

        return await self.write(work)

    # -- reading

    async def get(self, run_id: str) -> StoredRun | None:
        """Return a run; None if it is not here, or was deleted.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        self._wanted.setdefault(run_id, asyncio.get_running_loop().create_future())
        wanted = self._wanted[run_id]
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(wanted)

    async def _ask(self) -> None:
        """Answer all who ask for a run at this moment with one query."""
        await asyncio.sleep(0)
        wanted, self._wanted, self._asking = self._wanted, {}, None
        try:
            found = await self.get_many(list(wanted))
        except Exception as error:  # noqa: BLE001 - it is for those who asked, whatever it is
            for future in wanted.values():
                future.set_exception(error)
                future.exception()  # whoever asked may be gone
            return
        for run_id, future in wanted.items():
            future.set_result(found.get(run_id))

    async def get_many(self, run_ids: Sequence[str]) -> dict[str, StoredRun]:
        """Return those of the runs that are here, in one query.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        if not run_ids:
            return {}
        query = select(*_CONTENT).where(RUNS.c.run_id.in_(run_ids), RUNS.c.deleted_ms.is_(None))
        found = await self.read(query)
        return {row["run_id"]: rows.run_of(row["run_id"], row) for row in found}

    async def get_specs(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """Return spec and status of those of the runs that are here: no content, which may be large.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        if not run_ids:
            return {}
        query = select(RUNS.c.run_id, RUNS.c.spec, RUNS.c.status).where(
            RUNS.c.run_id.in_(run_ids), RUNS.c.deleted_ms.is_(None)
        )
        found = await self.read(query)
        names = (Record.spec.name, Record.status.name)
        return {
            row["run_id"]: Record(
                dict(zip(names, (bytes(row["spec"]), row["status"].encode()), strict=True)), names
            )
            for row in found
        }

    async def known(self, run_ids: Iterable[str]) -> set[str]:
        """Return those of the runs that are here, without reading them.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(RUNS.c.run_id).where(RUNS.c.run_id.in_(list(run_ids)), RUNS.c.deleted_ms.is_(None))
        return {row["run_id"] for row in await self.read(query)}

    async def positions(
        self,
        *,
        tenant: str,
        thread_id: str | None = None,
        user_id: str | None = None,
        before: Position | None = None,
        limit: int,
    ) -> list[Position]:
        """Return creation time and id of runs, newest first, of those before a position.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(RUNS.c.created_ms, RUNS.c.run_id).where(
            RUNS.c.tenant == tenant, RUNS.c.deleted_ms.is_(None)
        )
        if thread_id is not None:
            query = query.where(RUNS.c.thread_id == thread_id)
        if user_id is not None:
            query = query.where(RUNS.c.user_id == user_id)
        if before is not None:
            at, run_id = before
            earlier = or_(RUNS.c.created_ms < at, and_(RUNS.c.created_ms == at, RUNS.c.run_id < run_id))
            query = query.where(RUNS.c.created_ms <= at, earlier)
        query = query.order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc()).limit(limit)
        return [(row["created_ms"], row["run_id"]) for row in await self.read(query)]

    async def count(self) -> int:
        """Return how many runs are here.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(func.count().label("runs")).where(RUNS.c.deleted_ms.is_(None))
        return (await self.read(query))[0]["runs"]
