"""A row that the database refuses stays in the store, alone; all others move."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.archive import connection as connection_module
from mainstem_shared.archive.database import Archive
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.postgresql import PostgresProcess


@pytest.fixture
def archive_url(postgresql_url: str) -> str:
    """PostgreSQL: it checks what it is given."""
    return postgresql_url


def refused() -> float:
    return metrics.ARCHIVED.labels("refused")._value.get()


async def test_one_refused_run_keeps_no_other(
    store: Store,
    kept: Archive,
    sweeper: Sweeper,
    finished: Finishing,
    runs: AsyncRuns,
    postgresql: PostgresProcess,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a slice with refused rows the others are archived; the refused ones are counted, named, and read."""
    await kept.open()
    with postgresql.connect() as connection:
        connection.execute("ALTER TABLE mainstem_runs ADD CHECK (thread_id NOT LIKE 'bad%')")
    before = refused()
    good = [await finished(thread_id=f"good-{number}") for number in range(7)]
    bad = [await finished(thread_id=f"bad-{number}") for number in range(2)]
    with caplog.at_level(logging.ERROR):
        await sweeper.sweep()
    assert await kept.known([*good, *bad]) == set(good)
    assert refused() - before == 2
    named = {record.run_id for record in caplog.records if record.action == "archive_refused"}  # type: ignore[attr-defined]
    assert named == set(bad)
    for run_id in bad:
        assert await store.client.zscore(keys.run(run_id).compact, run_id) > now_ms() + 1_000_000
        assert (await runs.get(run_id)).text == "w0 w1 w2"
    assert not sweeper.archiver.is_unavailable
    with postgresql.connect() as connection:
        connection.execute("ALTER TABLE mainstem_runs DROP CONSTRAINT mainstem_runs_thread_id_check")
    for run_id in bad:
        await finished.due(run_id)
    await sweeper.sweep()
    assert await kept.known(bad) == set(bad)


async def test_a_damaged_record_stays(
    store: Store, kept: Archive, sweeper: Sweeper, finished: Finishing
) -> None:
    """A record that cannot be read stays in the store, on the list of those that wait, and is counted."""
    before = refused()
    good, damaged = await finished(), await finished()
    await store.client.hset(keys.run(damaged).record, "spec", b"{")
    await sweeper.sweep()
    assert await kept.known([good, damaged]) == {good}
    assert refused() - before == 1
    assert await store.client.exists(keys.run(damaged).record)
    assert await store.client.zscore(keys.run(damaged).compact, damaged) > now_ms()


async def test_a_database_that_takes_nothing_is_unavailable(
    kept: Archive, sweeper: Sweeper, finished: Finishing, postgresql: PostgresProcess
) -> None:
    """Where no row can be written for want of a table or a right, no run is blamed, and all wait."""
    await kept.open()
    before = refused()
    run_ids = [await finished() for _ in range(3)]
    with postgresql.connect() as connection:
        connection.execute("ALTER TABLE mainstem_runs RENAME TO elsewhere")
    await sweeper.sweep()
    assert (sweeper.archiver.is_unavailable, refused() - before) == (True, 0)
    assert sweeper.archiver.lag_s >= 0
    with postgresql.connect() as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO mainstem_runs")
    sweeper.archiver._unavailable_until = 0
    for run_id in run_ids:
        await finished.due(run_id)
    await sweeper.sweep()
    assert await kept.known(run_ids) == set(run_ids)


@pytest.mark.parametrize("state", ["read only", "hangs", "full"])
async def test_a_database_that_fails_is_unavailable(
    store: Store,
    kept: Archive,
    sweeper: Sweeper,
    finished: Finishing,
    runs: AsyncRuns,
    postgresql: PostgresProcess,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    """One that only reads, does not answer in time or has no room takes nothing, and no run is blamed; later all move."""
    monkeypatch.setattr(connection_module, "PATIENCE_S", 1.0)
    ids = [await finished() for _ in range(3)]
    await kept.open()
    before = refused()
    with ill(postgresql, state):
        await kept.close()
        await sweeper.sweep()
        assert sweeper.archiver.is_unavailable
        assert refused() == before
        assert (await runs.get(ids[0])).text == "w0 w1 w2"
    sweeper.archiver._unavailable_until = 0
    for run_id in ids:
        await finished.due(run_id)
    await sweeper.sweep()
    assert await kept.known(ids) == set(ids)


@contextlib.contextmanager
def ill(postgresql: PostgresProcess, state: str) -> Iterator[None]:
    """Have the database only read, hang, or say that it has no room, while the context lasts."""
    with postgresql.connect() as connection:
        match state:
            case "read only":
                connection.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
            case "hangs":
                connection.autocommit = False
                connection.execute("LOCK TABLE mainstem_runs IN SHARE ROW EXCLUSIVE MODE")
            case _:
                connection.execute(
                    "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS"
                    " $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$"
                )
                connection.execute(
                    "CREATE TRIGGER no_room BEFORE INSERT ON mainstem_runs EXECUTE FUNCTION no_room()"
                )
        try:
            yield
        finally:
            match state:
                case "read only":
                    connection.execute("SET default_transaction_read_only = off")
                    connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
                case "hangs":
                    connection.rollback()
                case _:
                    connection.execute("DROP TRIGGER no_room ON mainstem_runs")
