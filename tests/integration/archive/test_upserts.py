"""Many rows at once: as one array per column in PostgreSQL, one by one in SQLite, with the same outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_shared.archive import upserts
from mainstem_shared.archive.connection import RowRefused
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.rows import StoredRun, row_of
from mainstem_shared.archive.selections import DeletedRun
from mainstem_shared.model.events import Entry


@pytest.fixture
def archive_url(each_database: str) -> str:
    """The archive's address: every test runs on both databases."""
    return each_database


def odd(run: StoredRun, number: int) -> StoredRun:
    """Return a run whose content and record have every byte, a NUL, half a surrogate pair, or nothing."""
    assert run.final is not None
    data = (b'{"text":"\\u0000 \\ud800 \x00"}', bytes(range(256)), b"{}", b"")[number % 4]
    final = run.final._replace(data=data)
    fields = {**run.fields, "input": data or b"{}", "title": b'"a\\u0000\xff,\\"{}\'"'}
    return StoredRun(run_id=f"{run.run_id[:-4]}{number:04}", fields=fields, final=_or_none(final))


def _or_none(final: Entry) -> Entry | None:
    return final if final.data else None


def row(run: StoredRun, **changes: Any) -> dict[str, Any]:
    return {**row_of(run), **changes}


async def test_what_goes_in_comes_out(
    kept: Archive, stored: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with every byte, in one statement or in several, are read as they were; usage is NULL or its JSON."""
    monkeypatch.setattr(upserts, "SLICE_BYTES", 2000)
    runs = [odd(stored, number) for number in range(9)]
    rows = [
        row(run, usage={"input_tokens": number} if number % 2 else None) for number, run in enumerate(runs)
    ]
    assert len(list(upserts.slices(rows))) > 2
    assert await kept.put([*rows, rows[0]]) == set()
    assert await kept.get_many([run.run_id for run in runs]) == {run.run_id: run for run in runs}


async def test_what_is_there_later_stays(kept: Archive, stored: StoredRun) -> None:
    """A row of an earlier epoch, or one that was read earlier, changes nothing; a tombstone stays one."""
    runs = [odd(stored, number) for number in range(4)]
    at = row_of(stored)["archived_ms"]
    assert await kept.put([row(run, epoch=3, archived_ms=at) for run in runs]) == set()
    dead = runs[3].run_id
    await kept.deletions.delete([DeletedRun(run_id=dead, tenant="default", user_id="local", thread_id="t")])
    changes: list[dict[str, Any]] = [
        {"epoch": 2, "archived_ms": at + 9},
        {"epoch": 3, "archived_ms": at - 1},
        {"epoch": 3, "archived_ms": at},
        {"epoch": 4, "archived_ms": at},
    ]
    again = [row(run, engine="other", **change) for run, change in zip(runs, changes, strict=True)]
    assert await kept.put(again) == {dead}
    async with (await kept.open()).connect() as connection:
        found = await connection.exec_driver_sql("SELECT run_id, engine FROM mainstem_runs")
        engines = {one.run_id: one.engine for one in found.all()}
    assert [engines[run.run_id] for run in runs] == ["demo", "demo", "other", None]


async def test_two_archivers_put_the_same(kept: Archive, stored: StoredRun, archive_url: str) -> None:
    """Two processes that put the same runs at once, in the other order, both succeed: a row each."""
    rows = sorted((row(odd(stored, number)) for number in range(200)), key=lambda one: one["run_id"])
    other = Archive(archive_url)
    try:
        await other.count()
        answers = await asyncio.gather(*(one.put(rows) for one in (kept, other) for _ in range(4)))
        assert answers == [set()] * 8
        assert await kept.count() == 200
    finally:
        await other.close()


@pytest.mark.parametrize("change", [{"user_id": "a\ud800"}, {"epoch": 2**70}], ids=["surrogate", "overflow"])
async def test_what_no_column_holds_is_refused_alone(
    kept: Archive, stored: StoredRun, change: dict[str, Any]
) -> None:
    """A row with a text or number that the database cannot hold is refused, and keeps no other away."""
    rows = [row(odd(stored, number)) for number in range(5)]
    rows[2].update(change)
    with pytest.raises(RowRefused):
        await kept.put(rows)
    assert await kept.put_each(rows) == (set(), {rows[2]["run_id"]})
    assert await kept.count() == 4
