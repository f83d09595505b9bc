"""Archiving: how quickly finished runs move to PostgreSQL, what they leave behind, how they are read."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import psycopg
from harness import Bench, Row
from sqlalchemy import select

from mainstem_api import AsyncRuns
from mainstem_shared import archive, transitions
from mainstem_shared.archive import rows
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.tables import RUNS as TABLE
from mainstem_shared.model import jsontext
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.archiving import Archiver, stored_of
from mainstem_shared.operations.due_work import SLICE
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import ready_pages
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.dying_process import Messages
from support.processes.postgresql import PostgresProcess, find_binaries

RUNS = 4_000
PUT = 20_000
GOAL_RATE = 5_000
MESSAGES = 200
READS = 40
GOAL_READ = 2.0
MARKER_S = 61
"""A thread without runs says whose it was for a minute."""
SAME_ROWS = (
    select(*(TABLE.c[name] for name in ("run_id", *rows.CONTENT)))
    .where(TABLE.c.tenant == "default", TABLE.c.thread_id == "long", TABLE.c.deleted_ms.is_(None))
    .order_by(TABLE.c.created_ms)
)
COLUMNS = [column.name for column in TABLE.c]


async def archiving(bench: Bench) -> list[Row]:
    """Finished runs into PostgreSQL and out again; beside what plain SQL takes."""
    binaries = find_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not here: apt-get install postgresql")
    with PostgresProcess(binaries, fsync=True) as server:
        settings = bench.settings(archive_url=server.url, archive_hot_s=0)
        kept = archive.connect(settings)
        assert kept is not None
        store = Store(bench.server.url(0), archive=kept)
        operations = Operations(store=store, settings=settings, publisher=Messages())
        try:
            moved, example = await _moving(bench, operations)
            return [
                await _writing(bench, kept, server, example),
                moved,
                await _reading(bench, operations, server),
            ]
        finally:
            await store.close()


async def _finished(operations: Operations, count: int, **who: Any) -> list[str]:
    make, made = Finishing(operations), list[str]()
    await operations.store.client.set(keys.lease("w1"), "worker", px=3_600_000)
    for first in range(0, count, 32):
        some = range(first, min(count, first + 32))
        if who:  # of one thread, one after the other
            made += [await make(**who) for _ in some]
        else:
            made += await asyncio.gather(*(make() for _ in some))
    return made


async def _moving(bench: Bench, operations: Operations) -> tuple[Row, rows.StoredRun]:
    """Move runs as a sweeper does: out of the store, in slices, in one process."""
    count, store = bench.scaled(RUNS, 200), operations.store
    await _finished(operations, 50)
    used = await _used(store)
    run_ids = await _finished(operations, count)
    full = await _used(store) - used
    (found,) = await transitions.dump_many(store, run_ids[:1])
    assert not isinstance(found, transitions.Gone)
    example = stored_of(found)
    assert example is not None
    archiver, began = Archiver(operations), time.perf_counter()
    for first in range(0, count, SLICE):
        slice_ = run_ids[first : first + SLICE]
        await transitions.compact_all(store, slice_, keep_due=True)
        await archiver.archive(slice_)
    rate = count / (time.perf_counter() - began)
    assert archiver.archived == count, archiver.archived
    await asyncio.sleep(MARKER_S if not bench.quick else 0)
    left = (await _used(store) - used) / count
    row = Row(
        name=f"{count:,} runs archived",
        figure=f"{rate:,.0f} runs/s by one sweeper, all steps; {left:,.0f} B of Valkey left per run",
        baseline=f"{full / count:,.0f} B per run before",
        goal="0 B of Valkey per run after the hot window (below 16: its allocator)",
        met=bench.judge(left < 16),
        data={"runs_per_s": rate, "valkey_bytes_per_run": left, "valkey_bytes_before": full / count},
    )
    return row, example


async def _used(store: Store) -> int:
    return (await store.client.info("memory"))["used_memory"]


async def _writing(bench: Bench, kept: Archive, server: PostgresProcess, example: rows.StoredRun) -> Row:
    """Put rows as an archiver does, and the same rows by a plain INSERT of many, and by COPY."""
    count = bench.scaled(PUT, 1000)
    row = rows.row_of(example, messages=ready_pages.ready_of(example, now_ms()))
    made = [{**row, "run_id": f"{row['run_id'][:20]}{number:09}"} for number in range(count)]
    slices = [made[first : first + 1000] for first in range(0, count, 1000)]
    began = time.perf_counter()
    for slice_ in slices:
        await kept.put(slice_)
    rate = count / (time.perf_counter() - began)
    values = [tuple(None if name == "usage" else one.get(name) for name in COLUMNS) for one in made]
    plain = await asyncio.to_thread(_plain, server, values, copy=False)
    copied = await asyncio.to_thread(_plain, server, values, copy=True)
    return Row(
        name=f"{count:,} rows into PostgreSQL",
        figure=f"{rate:,.0f} runs/s, in slices of 1,000, over tombstones",
        baseline=f"executemany: {plain:,.0f}/s; COPY: {copied:,.0f}/s",
        ratio=f"{rate / plain:.2f} ×",
        goal=f"≥ {GOAL_RATE:,} runs/s",
        met=bench.judge(rate >= GOAL_RATE),
        data={"runs_per_s": rate, "executemany_per_s": plain, "copy_per_s": copied},
    )


def _plain(server: PostgresProcess, values: list[tuple[Any, ...]], *, copy: bool) -> float:
    """Rows a second into an empty, logged table with the archive's indexes, in transactions of 1,000."""
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE bare (LIKE mainstem_runs INCLUDING ALL)")
        connection.commit()
        began = time.perf_counter()
        for first in range(0, len(values), 1000):
            some = values[first : first + 1000]
            with connection.cursor() as cursor:
                if copy:
                    into_bare: Any = f"COPY bare ({', '.join(COLUMNS)}) FROM STDIN"
                    with cursor.copy(into_bare) as into:
                        for one in some:
                            into.write_row(one)
                else:
                    insert: Any = f"INSERT INTO bare VALUES ({', '.join(['%s'] * len(COLUMNS))})"
                    cursor.executemany(insert, some)
            connection.commit()
        rate = len(values) / (time.perf_counter() - began)
        connection.execute("DROP TABLE bare")
        connection.commit()
    return rate


async def _reading(bench: Bench, operations: Operations, server: PostgresProcess) -> Row:
    """Read an archived thread of 200 messages, and the same rows by SQL alone; one reader at a time.

    The rows are those from which messages are built. They are fetched by the same driver in two ways: through
    SQLAlchemy Core from the archive's own pool, and in a prepared statement of a kept, bare connection. Ours
    are the same messages as the gateway's route answers them, without HTTP, and as objects.
    """
    assert operations.store.archive is not None
    run_ids = await _finished(operations, MESSAGES // 2, thread_id="long")
    for run_id in run_ids:
        await operations.store.client.hset(keys.run(run_id).record, "input", b'{"prompt":"What is it?"}')
    await Archiver(operations).archive(run_ids)
    took: dict[str, list[float]] = {"core": [], "bare": [], "json": [], "objects": []}
    async with (
        AsyncRuns(operations.settings, store=operations.store) as runs,
        await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection,
    ):
        for _ in range(READS if not bench.quick else 5):
            began = now_s()
            page = await runs.messages("long", limit=MESSAGES)
            took["objects"].append(now_s() - began)
            assert len(page.messages) == MESSAGES
            began = now_s()
            ready = await runs.ready_messages("long", user_id=None, tenant="default", limit=MESSAGES)
            took["json"].append(now_s() - began)
            assert ready is not None
            assert len(jsontext.loads(ready)["messages"]) == MESSAGES
            began = now_s()
            found = await connection.execute(
                "SELECT run_id, spec, input, record, final_id, final FROM mainstem_runs"
                " WHERE tenant = 'default' AND thread_id = 'long' AND deleted_ms IS NULL ORDER BY created_ms"
            )
            assert len(await found.fetchall()) == len(run_ids)
            took["bare"].append(now_s() - began)
            began = now_s()
            assert len(await operations.store.archive.read(SAME_ROWS)) == len(run_ids)
            took["core"].append(now_s() - began)
    core, bare, ready_s, objects_s = map(statistics.median, took.values())
    return Row(
        name=f"archived thread of {MESSAGES} messages",
        figure=f"{ready_s * 1000:.1f} ms p50 as the route's JSON, {objects_s * 1000:.1f} ms as objects",
        baseline=f"its rows: {core * 1000:.1f} ms through SQLAlchemy Core, {bare * 1000:.1f} ms bare psycopg",
        ratio=f"{ready_s / core:.1f} × Core, {ready_s / bare:.1f} × bare; objects {objects_s / core:.1f} ×",
        goal=f"≤ {GOAL_READ:.0f} × Core",
        met=bench.judge(ready_s <= GOAL_READ * core),
        data={"core_p50_s": core, "bare_p50_s": bare, "json_p50_s": ready_s, "objects_p50_s": objects_s},
    )


def now_s() -> float:
    return time.perf_counter()
