"""Whoever archives, tells or deletes is killed at each single write: another process makes it whole.

With MAINSTEM_KILLED each death is that of a process, by the kernel, on SQLite and PostgreSQL (`make archive`).
Otherwise the process's writes end, on SQLite, and some writes stand for all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import select

from mainstem_api import AsyncRuns
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.tables import RUNS, THREADS
from mainstem_shared.blobs import drivers
from mainstem_shared.operations import deleting, undelivered_callbacks
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.fakes import webhook_receiver
from support.fakes.webhook_receiver import Receiver
from support.models import archive_crashes
from support.models.archive_crashes import DYING, SAID, THREAD, USER, Conversation
from support.processes.dying_process import Life

KILLED = bool(os.environ.get("MAINSTEM_KILLED"))
WRITES = range(0, 400, 1 if KILLED else 29)
"""How many writes a process lives for."""
FEW_WRITES = range(0, 400, 1 if KILLED else 2)
"""The same of one that has few."""
WITHOUT_ARCHIVE = range(0, 400, 1 if KILLED else 37)
"""The same where there is no archive."""
SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
QUEUE = "orders"


@pytest.fixture(params=["sqlite", "postgresql"] if KILLED else ["sqlite"])
def archive_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The database; a short run takes the one that starts at once."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/archive.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with webhook_receiver.receiving() as it:
        yield it


@pytest.fixture
def settings(settings: Settings, receiver: Receiver) -> Settings:
    """A webhook and a task are to be told; runs are released at once."""
    given = {
        "callback_hosts": f"127.0.0.1:{receiver.port}",
        "callback_http": True,
        "callback_networks": "127.0.0.0/8",
        "callback_tasks": f"shop.stored@{QUEUE}",
        "webhook_secrets": SECRET,
    }
    known = settings.model_dump(exclude_unset=True)
    return Settings(**{**known, **given})


@pytest.fixture
def operations(store: Store, settings: Settings) -> Any:
    """What the process changes runs with that goes on."""
    assert settings.broker_url is not None
    publisher = CeleryPublisher(settings.broker_url.get_secret_value())
    yield Operations(store=store, settings=settings, publisher=publisher)
    publisher.close()


@pytest.fixture
def conversation(operations: Operations, receiver: Receiver) -> Conversation:
    return Conversation(operations=operations, callback={"task": "shop.stored", "url": receiver.url()})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a deletion left that died is finished at once; in the dead nothing goes on in other tasks."""
    monkeypatch.setattr(deleting, "ABANDONED_MS", -1000)
    monkeypatch.setattr(deleting, "AT_ONCE", 1)


async def dies(name: str, settings: Settings, run_ids: list[str], writes: int) -> bool:
    """Have something done by a process that dies instead of the write after so many; False if it lives on."""
    if not KILLED:
        return not await archive_crashes.act(name, settings, run_ids, Life(writes))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([archive_crashes.__name__])
    child = context.Process(
        target=archive_crashes.act_and_be_killed, args=(name, settings, run_ids, writes), daemon=True
    )
    child.start()
    await asyncio.to_thread(child.join)
    assert child.exitcode in (0, -9), child.exitcode
    return child.exitcode != 0


async def go_on(operations: Operations) -> None:
    """Let another process sweep until nothing is due: what the dead one held is due again."""
    sweeper = Sweeper(operations=operations, owner=lambda: "the other")
    await operations.store.client.delete(keys.SWEEP)
    indexes = [index.compact for index in keys.INDEXES]
    found = await operations.store.commands(*(("ZRANGE", index, 0, -1) for index in indexes))
    for index, members in zip(indexes, found, strict=True):
        if members:
            await operations.store.client.zadd(index, dict.fromkeys(members, 1), xx=True)
    await operations.store.client.zadd(keys.WORKERS, {DYING: 1})  # it had a lease once
    await sweeper.sweep()
    if await operations.store.client.exists(keys.owned(DYING)):
        await operations.store.client.delete(keys.SWEEP)
        await sweeper.sweep()  # dead is who is missed twice: what it had is looked at, and its list goes


async def tell_all(operations: Operations, run_ids: list[str]) -> None:
    """Let another process's courier work until nothing is due: what the dead one held is due again."""
    client = operations.store.client
    for run_id in run_ids:
        index = keys.run(run_id).callbacks_due
        for member in await client.zrange(index, 0, -1):
            await client.zadd(index, {member: 1})
    await archive_crashes.deliver(operations, Life(1_000_000), run_ids)


def published(settings: Settings) -> list[tuple[str, str]]:
    """Run and id of each message that a callback's task got; they are taken."""
    assert settings.broker_url is not None
    with redis.Redis.from_url(settings.broker_url.get_secret_value()) as client:
        raw = [json.loads(one) for one in client.lrange(QUEUE, 0, -1)]
        client.delete(QUEUE)
    headers = [one["headers"] for one in raw]
    return [(one["mainstem_run_id"], one["id"]) for one in headers]


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """Run and id of each webhook; they are taken."""
    taken, receiver.received[:] = list(receiver.received), []
    return [(one.event["data"]["run_id"], one.headers["webhook-id"]) for one in taken]


def once(deliveries: list[tuple[str, str]], run_ids: list[str]) -> None:
    """Each of the runs was told of, under one id of its own."""
    assert {run_id for run_id, _ in deliveries} == set(run_ids)
    assert len(set(deliveries)) == len(run_ids), deliveries


def files(settings: Settings) -> list[str]:
    return sorted(drivers.of(settings).older_than(-60))


async def test_an_archiver(
    store: Store, kept: Archive, conversation: Conversation, settings: Settings, receiver: Receiver,
    runs: AsyncRuns,
) -> None:  # fmt: skip
    """Killed at any write: one row, the same run to every reader, its file, and its end told under one id."""
    for writes in WRITES:
        run_id = await conversation.end_one()
        before, said = await runs.get(run_id), await runs.messages(THREAD, limit=1)
        died = await dies("archive", settings, [run_id], writes)
        assert await runs.get(run_id) == before
        await go_on(conversation.operations)
        assert not await store.client.exists(keys.run(run_id).record)
        assert await kept.count() == len(conversation.ended)
        assert (await runs.get(run_id), await runs.messages(THREAD, limit=1)) == (before, said)
        assert run_id in files(settings)
        await tell_all(conversation.operations, [run_id])
        once(told(receiver), [run_id])
        once(published(settings), [run_id])
        assert await undelivered_callbacks.find(store) == []
        if not died:
            break
    assert writes > 10
    assert sorted(await kept.known(conversation.ended)) == sorted(conversation.ended)


async def test_a_courier(
    store: Store, conversation: Conversation, settings: Settings, receiver: Receiver
) -> None:
    """Killed at any write: webhook and task are told at least once, under one id, of a run that is archived."""
    run_id = await conversation.end_one()
    await go_on(conversation.operations)
    await tell_all(conversation.operations, [run_id])
    ids = {*told(receiver), *published(settings)}
    for writes in FEW_WRITES:
        assert await undelivered_callbacks.resend(conversation.operations, run_id) == 2
        died = await dies("deliver", settings, [run_id], writes)
        if writes % 4:  # also if an answer is lost that came
            receiver.answers.append(webhook_receiver.LOST)
        await tell_all(conversation.operations, [run_id])
        await tell_all(conversation.operations, [run_id])
        receiver.answers.clear()
        # Whose last attempt was not answered must not be settled: what came before the loss does not count.
        assert receiver.answered[-1:] == receiver.received[-1:], writes
        webhooks, tasks = told(receiver), published(settings)
        assert {*webhooks} <= ids, writes
        assert {*tasks} <= ids, writes
        once(webhooks, [run_id])
        once(tasks, [run_id])
        assert await undelivered_callbacks.find(store) == []
        if not died:
            break
    assert writes > 5


@pytest.mark.parametrize("what", ["delete_thread", "delete_user"])
async def test_a_deleter(
    what: str, store: Store, kept: Archive, conversation: Conversation, settings: Settings,
    receiver: Receiver,
) -> None:  # fmt: skip
    """Killed at any write, and asked again: no key, row or file says anything any more, and nothing undone stays."""
    for writes in WRITES:
        conversation.ended.clear()
        conversation.live.clear()
        await conversation.fill()
        run_ids = [*conversation.ended, *conversation.live]
        died = await dies(what, settings, run_ids, writes)
        gone = await uncleared(kept)
        await deleting.finish_deletions(conversation.operations)
        for run_id in gone:  # also if nobody asks again
            assert not await store.client.exists(keys.run(run_id).record)
            assert run_id not in files(settings)
        await archive_crashes.ACTS[what](conversation.operations, Life(0), run_ids)
        await go_on(conversation.operations)
        await nothing_is_left(store, kept, settings, conversation, what)
        if what == "delete_thread":
            once(told(receiver), run_ids)
            once(published(settings), run_ids)
        else:
            assert told(receiver) == published(settings) == []
        if not died:
            break
    assert writes > 40


@pytest.mark.parametrize("what", ["delete_thread", "delete_user"])
async def test_a_deleter_without_an_archive(
    what: str, store_url: str, settings: Settings, operations: Operations, receiver: Receiver
) -> None:
    """Killed at any write, and asked again: no key or file is left, also of runs that were half gone."""
    alone = Settings(**{**settings.model_dump(exclude_unset=True), "archive_url": None})
    store = Store(store_url)
    made = Operations(store=store, settings=alone, publisher=operations.publisher)
    conversation = Conversation(operations=made, callback={"task": "shop.stored", "url": receiver.url()})
    for writes in WITHOUT_ARCHIVE:
        conversation.ended.clear()
        conversation.live.clear()
        await conversation.fill()
        run_ids = [*conversation.ended, *conversation.live]
        died = await dies(what, alone, run_ids, writes)
        for _ in range(2):  # at last there is nothing to be deleted any more
            await archive_crashes.ACTS[what](made, Life(0), run_ids)
        await go_on(made)
        await nothing_is_left(store, None, alone, conversation, what)
        if not died:
            break
    assert writes > 40
    await store.close()


async def uncleared(kept: Archive) -> list[str]:
    found = await kept.read(select(RUNS.c.run_id).where(RUNS.c.deleted_ms.is_not(None), RUNS.c.doomed == 1))
    return [row["run_id"] for row in found]


async def nothing_is_left(
    store: Store, kept: Archive | None, settings: Settings, conversation: Conversation, what: str
) -> None:
    """Neither store, nor archive, nor files know anything of the conversation."""
    run_ids = [*conversation.ended, *conversation.live]
    if what == "delete_thread":  # the ends are told, without content
        await tell_all(conversation.operations, run_ids)
    secrets = (USER, THREAD, SAID, *run_ids)
    left = await archive_crashes.stored(store)
    said = {
        key: value
        for key, value in left.items()
        if any(one in key + value for one in secrets)
        and archive_crashes.SILENT not in key  # which runs it had; it reads that, or a sweeper drops it
    }
    assert said == {}
    assert files(settings) == []
    if kept is None:
        return
    for row in await kept.read(select(RUNS)):
        assert {name for name, value in row.items() if value is not None} == {"run_id", "deleted_ms"}
    for row in await kept.read(select(THREADS)):
        assert (row["title"], row["labels"], row["metadata"]) == (None, None, None)
