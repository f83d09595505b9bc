"""`Connection` opens the archive's database once, upgrades its tables, and translates its failures.

PostgreSQL and SQLite; any process may use it, each has a few connections. What is asked of the database
stands in `database`, `deletions` and `threads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import CursorResult, Executable, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mainstem_shared import errors
from mainstem_shared.archive import migrating

T = TypeVar("T")

PATIENCE_S: Final = 10.0
"""Longest wait for the database: one that hangs must not hold requests, or a sweep."""
CONNECTIONS: Final = 4
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "sqlite": "sqlite+aiosqlite",
}
_READ_ONLY: Final = "25006"
_OF_DATA: Final = ("22", "23", "54")
"""Classes of SQLSTATE that blame the row: its data, a constraint, a limit of the program."""


class RowRefused(errors.ArchiveUnavailable):
    """The database refused a row, and would refuse it again."""


class Connection:
    """Connects one process to the archive's database. It may be created anywhere, and is used on one loop."""

    def __init__(self, url: str) -> None:
        self.url = _parse(url)
        self._engine: AsyncEngine | None = None
        self._opening = asyncio.Lock()

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def insert(self, table: Table) -> Any:
        """Return an INSERT in this database's dialect; both dialects have the same ON CONFLICT."""
        return (sqlite.insert if self.is_sqlite else postgresql.insert)(table)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in one transaction; it must be safe to repeat.

        Raises:
            RowRefused: the database takes nothing of it, because of what it is.
            ArchiveUnavailable: done or not.
        """

        async def transact(engine: AsyncEngine) -> T:
            async with engine.begin() as connection:
                return await work(connection)

        return await self._twice(transact)

    async def read(self, query: Executable, given: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return a query's rows, as mappings; `given` are its parameters, if it names some.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        return await self._read(query, given, lambda result: result.mappings().all())

    async def rows(self, query: Executable, given: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Return a query's rows, as tuples: of hundreds of rows, mappings cost as much as the query.

        Raises:
            ArchiveUnavailable: nobody knows.
        """
        return await self._read(query, given, lambda result: result.all())

    async def _read(
        self,
        query: Executable,
        given: Mapping[str, Any] | None,
        take: Callable[[CursorResult[Any]], Sequence[Any]],
    ) -> Sequence[Any]:
        async def ask(engine: AsyncEngine) -> Sequence[Any]:
            # Without a transaction: a read is one round trip.
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                return take(await connection.execute(query, given))

        return await self._twice(ask)

    async def _twice(self, work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
        """Do it once more if a pooled connection turned out to be dead: the database was restarted."""
        async with _translated():
            engine = await self.open()
            try:
                return await work(engine)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
                    await engine.dispose()  # demoted: connections that are kept would stay with this server
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
    except (ValueError, TypeError, OverflowError) as error:
        raise RowRefused from error  # a driver cannot even say it to the database
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        if _blames_row(error):
            raise RowRefused from error
        raise errors.ArchiveUnavailable from error


def _blames_row(error: Exception) -> bool:
    """Tell whether a failure is due to what was to be written, and not to the database's state."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError)
    if error.connection_invalidated:
        return False
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_OF_DATA)
    return isinstance(error, (DataError, IntegrityError))
