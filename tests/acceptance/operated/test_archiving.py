"""Runs move to PostgreSQL while workers, gateways and PostgreSQL itself are killed; readers page all the while."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import archive, errors
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import listings
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.dying_process import Messages
from support.processes.postgresql import PostgresProcess, find_binaries
from support.processes.processes import Child, gateway
from support.processes.servers import free_port
from support.requiring import require
from support.waiting import wait_until_async

RUNS = int(os.environ.get("MAINSTEM_ARCHIVED_RUNS", "300"))
KILLS = int(os.environ.get("MAINSTEM_ARCHIVED_KILLS", "3"))
AT_ONCE = 25
LIVES_MS = 7_200_000
USERS = ("ann", "bob")


@pytest.fixture
def doomed_postgresql() -> Any:
    """A server of this test's own, to be killed."""
    binaries = find_binaries()
    require(binaries, "PostgreSQL's server (Debian: postgresql)")
    assert binaries is not None
    with PostgresProcess(binaries) as server:
        yield server


@pytest.fixture
async def store(live: Any, doomed_postgresql: PostgresProcess) -> AsyncIterator[Store]:
    """The store, and its archive."""
    settings = Settings(redis_url=live.store.url(0), archive_url=doomed_postgresql.url)  # type: ignore[arg-type]
    connected = Store(live.store.url(0), archive=archive.connect(settings), patience_s=30)
    yield connected
    await connected.close()


async def made(store: Store, settings: Settings, count: int) -> dict[str, str]:
    """Finish so many runs; returns their users by id. They are not due yet."""
    await store.client.set(keys.lease("w1"), "worker", px=LIVES_MS)
    finished = Finishing(Operations(store=store, settings=settings, publisher=Messages()))
    users: dict[str, str] = {}
    for first in range(0, count, AT_ONCE):
        whose = [USERS[number % 2] for number in range(first, min(count, first + AT_ONCE))]
        ids = await asyncio.gather(*(finished(user_id=user) for user in whose))
        users.update(zip(ids, whose, strict=True))
        for run_id in ids:
            names = keys.run(run_id)
            await store.commands(
                ("PEXPIRE", names.record, LIVES_MS), ("PEXPIRE", names.log, LIVES_MS),
                ("ZADD", names.compact, LIVES_MS + int(time.time() * 1000), run_id),
            )  # fmt: skip
    return users


async def listed(store: Store, user: str) -> list[str]:
    """The ids of a user's runs, page by page; a page that the archive does not give is asked for again."""
    query, cursor, found = listings.Query(user_id=user), None, list[str]()
    while True:
        try:
            page, cursor = await listings.positions(store, query, limit=100, cursor=cursor)
        except errors.Unavailable:
            await asyncio.sleep(0.2)
            continue
        found += [position.run_id for position in page]
        if cursor is None:
            return found


@pytest.mark.timeout(1800)
async def test_no_run_is_lost_or_doubled(live: Any, store: Store, doomed_postgresql: PostgresProcess) -> None:
    """While all of it is killed each run stands once in every listing; in the end each has one row, and no key."""
    env = {
        "MAINSTEM_ARCHIVE_URL": doomed_postgresql.url, "MAINSTEM_ARCHIVE_HOT_S": "0", "MAINSTEM_SWEEP_S": "0.5",
        "MAINSTEM_LEASE_S": "5",
    }  # fmt: skip
    settings = Settings(redis_url=live.store.url(0), archive_url=doomed_postgresql.url)  # type: ignore[arg-type]
    users = await made(store, settings, RUNS)
    live.workers("one", "two", **env)
    for name in ("web", "api"):
        port = free_port()
        child = live.stack.enter_context(gateway({**live.env, **env}, live.directory, port, name))
        live.children.append(child)
    random.seed(int(os.environ.get("SEED", "0")))
    for run_id in users:
        await store.command("ZADD", keys.run(run_id).compact, int(time.time() * 1000) - 1, run_id)
    began, seen = time.monotonic(), 0
    killing = asyncio.create_task(kill(live.children, doomed_postgresql, store))
    while not killing.done() or await waiting(store):
        if killing.done():
            await pass_time(store)
        found = await listed(store, USERS[seen % 2])
        assert len(found) == len(set(found)), "a run stands twice in a listing"
        assert set(found) == {run_id for run_id, user in users.items() if user == USERS[seen % 2]}
        seen += 1
    deaths = await killing
    took_s = time.monotonic() - began
    await check(store, live, doomed_postgresql, users)
    sys.stdout.write(
        f"{RUNS} runs archived in {took_s:.1f} s with {deaths}; {seen} complete listings meanwhile\n"
    )


async def waiting(store: Store) -> int:
    counts = await store.commands(*(("ZCARD", listed.compact) for listed in keys.INDEXES))
    return sum(counts)


async def kill(children: list[Child], database: PostgresProcess, store: Store) -> dict[str, int]:
    """Kill something, and start it again, whenever another part of the runs has moved."""
    deaths: dict[str, int] = {}
    for nth in range(KILLS):
        left = RUNS * (KILLS - nth) // (KILLS + 1)
        await wait_until_async(
            functools.partial(fewer, store, left), description=f"{left} to be left", timeout_s=900
        )
        victim = database if nth % 3 == 2 else children[nth % len(children)]
        name = "postgresql" if isinstance(victim, PostgresProcess) else victim.name
        victim.sigkill()
        await asyncio.to_thread(victim.start)
        deaths[name] = deaths.get(name, 0) + 1
        await pass_time(store)
    return deaths


async def pass_time(store: Store) -> None:
    """What the dead held, or could not archive, is due: as it is some seconds later."""
    lists = [listed.compact for listed in keys.INDEXES]
    found = await store.commands(*(("ZRANGE", name, 0, -1) for name in lists), large=True)
    at = int(time.time() * 1000) - 1
    due = [("ZADD", name, "XX", at, run_id) for name, ids in zip(lists, found, strict=True) for run_id in ids]
    await store.commands(*due, large=True)


async def fewer(store: Store, count: int) -> bool:
    return await waiting(store) <= count


async def check(store: Store, live: Any, database: PostgresProcess, users: dict[str, str]) -> None:
    """One row per run with its whole content; nothing is left in the store; any of them is read."""
    with database.connect() as connection:
        rows = connection.execute("SELECT run_id, user_id, final FROM mainstem_runs").fetchall()
    assert {run_id: user for run_id, user, _ in rows} == users
    assert len(rows) == RUNS
    assert all(b"w0 w1 w2" in bytes(final) for *_, final in rows)

    async def let_go() -> bool:
        names = [keys.run(run_id).record for run_id in users]
        return not any(await store.commands(*(("EXISTS", name) for name in names), large=True))

    await wait_until_async(let_go, description="the store to have let go of all", timeout_s=60)
    with contextlib.closing(psycopg.connect(database.url)) as connection:
        assert connection.execute(
            "SELECT count(*) FROM mainstem_runs WHERE deleted_ms IS NOT NULL"
        ).fetchone() == (0,)
    async with AsyncRuns(live.settings(), store=store) as runs:
        for run_id in random.sample(sorted(users), min(50, RUNS)):
            assert (await runs.get(run_id, user_id=users[run_id])).text == "w0 w1 w2"
