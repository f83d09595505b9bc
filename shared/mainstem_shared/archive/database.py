"""The `Archive` puts finished runs into an SQL database, finds them again, and deletes them for good.

Every call may be repeated. A deletion leaves a tombstone: a run that was deleted is never put again, whoever
read it from the store before. PostgreSQL and SQLite; any process may use it, each has a few connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Executable, and_, event, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mainstem_shared import errors
from mainstem_shared.archive import migrating, rows
from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.archive.tables import RUNS
from mainstem_shared.model.time import now_ms

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""Longest wait for the database: one that hangs must not hold requests, or a sweep."""
CONNECTIONS: Final = 4
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}
_KEPT: Final = ("run_id", "deleted_ms")
_CONTENT: Final = [RUNS.c[name] for name in ("run_id", *rows.CONTENT)]


class Archive:
    """One process's way to the archive. Made anywhere, used on one loop."""

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self._engine: AsyncEngine | None = None
        self._opening = asyncio.Lock()
        self._wanted: dict[str, asyncio.Future[StoredRun | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    # -- writing

    async def put(self, runs: Sequence[dict[str, Any]]) -> set[str]:
        """Keep finished runs (`rows.row_of`), in one transaction; returns those that were deleted before.

        A run that is there already is replaced, unless what is there ended in a later epoch.

        Raises:
            ArchiveUnavailable: all or none of them are kept.
        """
        insert = (sqlite.insert if self.is_sqlite else postgresql.insert)(RUNS)
        new = insert.excluded
        upsert = insert.on_conflict_do_update(
            index_elements=[RUNS.c.run_id],
            set_={column.name: new[column.name] for column in RUNS.c if column.name not in _KEPT},
            where=and_(RUNS.c.deleted_ms.is_(None), RUNS.c.epoch <= new.epoch),
        )
        ids = [row["run_id"] for row in runs]
        dead = select(RUNS.c.run_id).where(RUNS.c.run_id.in_(ids), RUNS.c.deleted_ms.is_not(None))

        async def work(connection: AsyncConnection) -> set[str]:
            await connection.execute(upsert, list(runs))
            return set((await connection.execute(dead)).scalars())

        return await self._write(work)

    async def bury(self, run_ids: Sequence[str]) -> None:
        """Delete runs, and have them never kept again: also those that are not here yet.

        Raises:
            ArchiveUnavailable: deleted or not.
        """
        now = now_ms()
        insert = (sqlite.insert if self.is_sqlite else postgresql.insert)(RUNS)
        emptied = {column.name: None for column in RUNS.c if column.name not in _KEPT}
        tomb = insert.on_conflict_do_update(
            index_elements=[RUNS.c.run_id], set_={**emptied, "deleted_ms": now}
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(tomb, [{"run_id": run_id, "deleted_ms": now} for run_id in run_ids])

        if run_ids:
            await self._write(work)

    async def bury_all(self, *, tenant: str, thread_id: str | None = None, user_id: str | None = None) -> int:
        """Delete what is here of a thread, of a user, or of a user on a thread; returns how many runs.

        Raises:
            ArchiveUnavailable: deleted or not.
        """
        if thread_id is None and user_id is None:
            raise ValueError("nobody deletes a whole tenant by mistake")
        emptied = {column.name: None for column in RUNS.c if column.name not in _KEPT}
        gone = update(RUNS).where(_of(tenant, thread_id, user_id)).values(**emptied, deleted_ms=now_ms())

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(gone)).rowcount

        return await self._write(work)

    async def threads_of(self, *, tenant: str, user_id: str) -> list[str]:
        """Return the threads on which the archive has runs of a user.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(RUNS.c.thread_id).where(_of(tenant, None, user_id)).distinct()

        async def work(connection: AsyncConnection) -> list[str]:
            return list((await connection.execute(query)).scalars())

        return await self._write(work)

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
        found = await self._read(query)
        return {row["run_id"]: rows.run_of(row["run_id"], row) for row in found}

    async def positions(
        self,
        *,
        tenant: str,
        thread_id: str | None = None,
        user_id: str | None = None,
        before: tuple[int, str] | None = None,
        limit: int,
    ) -> list[tuple[int, str]]:
        """Return creation time and id of runs, newest first, of those before a position.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(RUNS.c.created_ms, RUNS.c.run_id).where(_of(tenant, thread_id, user_id))
        if before is not None:
            at, run_id = before
            earlier = or_(RUNS.c.created_ms < at, and_(RUNS.c.created_ms == at, RUNS.c.run_id < run_id))
            query = query.where(RUNS.c.created_ms <= at, earlier)
        query = query.order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id.desc()).limit(limit)
        return [(row["created_ms"], row["run_id"]) for row in await self._read(query)]

    async def count(self) -> int:
        """Return how many runs are here.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        query = select(func.count().label("runs")).where(RUNS.c.deleted_ms.is_(None))
        return (await self._read(query))[0]["runs"]

    # -- the connection

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async def transact(engine: AsyncEngine) -> T:
            async with engine.begin() as connection:
                return await work(connection)

        return await self._twice(transact)

    async def _read(self, query: Executable) -> Sequence[Any]:
        async def ask(engine: AsyncEngine) -> Sequence[Any]:
            # Without a transaction: a read is one round trip.
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                return (await connection.execute(query)).mappings().all()

        return await self._twice(ask)

    async def _twice(self, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
        """Do it once more if a pooled connection turned out to be dead: the database was restarted."""
        async with _translated():
            engine = await self.open()
            try:
                return await work(engine)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return await work(engine)

    async def open(self) -> AsyncEngine:
        """Return the engine; the first call brings the tables up to date."""
        async with self._opening:
            if self._engine is None:
                engine = _engine(self.url)
                try:
                    await migrating.upgrade(engine)
                except BaseException:
                    await engine.dispose()
                    raise
                self._engine = engine
            return self._engine


def _of(tenant: str, thread_id: str | None, user_id: str | None) -> Any:
    wanted = [RUNS.c.tenant == tenant, RUNS.c.deleted_ms.is_(None)]
    if thread_id is not None:
        wanted.append(RUNS.c.thread_id == thread_id)
    if user_id is not None:
        wanted.append(RUNS.c.user_id == user_id)
    return and_(*wanted)


def _parse(url: str) -> URL:
    """Return the address with the driver that we use.

    Raises:
        Misconfigured: it is no address of PostgreSQL or SQLite.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise errors.Misconfigured("MAINSTEM_ARCHIVE_URL is no database address.") from error
    driver = _DRIVERS.get(parsed.drivername.partition("+")[0])
    if driver is None:
        raise errors.Misconfigured("MAINSTEM_ARCHIVE_URL: postgresql://… or sqlite:///… is wanted.")
    return parsed.set(drivername=driver)


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, connect_args={"timeout": PATIENCE_S})
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    return create_async_engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=PATIENCE_S,
        connect_args={"connect_timeout": 5, "application_name": "mainstem"},
    )


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers go on while a sweeper writes
    cursor.execute("PRAGMA synchronous=FULL")  # the store forgets what was committed here
    cursor.close()


@asynccontextmanager
async def _translated() -> AsyncGenerator[None]:
    """Turn the database's failures into ours."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        raise errors.ArchiveUnavailable from error
