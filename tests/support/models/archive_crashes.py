"""Operations on archived conversations, for processes that die on the way: what is there before, and what is done.

The functions of `ACTS` also run in processes that the kernel kills: they take what can be sent to one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending, starting
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.archiving import Archiver
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import CLAIM, Operations, nobody
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.models.verb_calls import without_gap
from support.processes import dying_operations
from support.processes.dying_process import Died, KilledLife, Life

USER: Final = "ann-of-the-secrets"
THREAD: Final = "a-secret-thread"
SAID: Final = "a secret that somebody told"
SILENT: Final = "a worker that does not answer"
DYING: Final = "the dying"
LIVES_MS: Final = 600_000


@dataclass(kw_only=True)
class Conversation:
    """A thread of a user's: runs that are over, live ones, files, a title; somebody is to be told of each end."""

    operations: Operations
    callback: dict[str, Any]
    ended: list[str] = field(default_factory=list[str])
    live: list[str] = field(default_factory=list[str])

    @property
    def store(self) -> Store:
        return self.operations.store

    async def start(self) -> str:
        await self.store.client.hset(keys.ENGINES, "demo", "{}")
        fields = {
            "engine": "demo", "input": {"text": SAID}, "metadata": {"said": SAID}, "if_active": "enqueue",
            "callback": self.callback,
        }  # fmt: skip
        answer = await starting.start_run(
            self.operations,
            starting.parse_request(fields),
            principal=Principal(user_id=USER),
            thread_id=THREAD,
        )
        await self.operations.files.put(answer.run_id, SAID.encode(), "text/plain")
        return answer.run_id

    async def end_one(self) -> str:
        """Have a run that is over, and due to be archived."""
        run_id = await self.start()
        settled = await ending.take_and_end(self.operations, run_id, sealer="", reason=Reason.USER_ABORT)
        assert settled is not None
        await self.due(run_id)
        self.ended.append(run_id)
        return run_id

    async def due(self, run_id: str) -> None:
        """Have a run archived by the next sweep."""
        await self.store.client.zadd(keys.run(run_id).compact, {run_id: now_ms() - 1})

    async def fill(self) -> None:
        """Have a run that only the archive has, one that both have, one that waits for it, and two live ones."""
        for hot_s in (0, 600, None):
            run_id = await self.end_one()
            if hot_s is not None:
                settings = self.operations.settings.model_copy(update={"archive_hot_s": hot_s})
                await Archiver(Operations(store=self.store, settings=settings, publisher=nothing())).archive(
                    [run_id]
                )
        self.live += [await self.start(), await self.start()]
        await self.store.client.set(keys.lease(SILENT), "worker", px=LIVES_MS)
        claim = CLAIM.of(
            self.live[0], nonce=without_gap(), owner=SILENT, is_current=lambda: True, task_id="t",
            live_ttl_ms=LIVES_MS,
        )  # fmt: skip
        await self.operations.perform(claim, notify=nobody)
        if self.store.archive is None:
            return
        described = {"title": b'"' + SAID.encode() + b'"', "labels": None, "metadata": None}
        await self.store.archive.threads.describe("default", THREAD, described, born_ms=now_ms())


def nothing() -> Any:
    """A publisher for those that publish nothing."""
    return None


Act = Callable[[Operations, Life, list[str]], Awaitable[None]]


async def archive(operations: Operations, life: Life, run_ids: list[str]) -> None:
    """Sweep: the runs are due."""
    del life, run_ids
    await Sweeper(operations=operations, owner=lambda: DYING).sweep()


async def deliver(operations: Operations, life: Life, run_ids: list[str]) -> None:
    """Tell whoever is to be told."""
    courier = dying_operations.courier(operations, life)
    await courier.deliver(sorted({keys.run(run_id).callbacks_due for run_id in run_ids}))
    await courier.wait_idle()
    await courier.aclose()
    if life.left == 0:
        raise life.death()  # in a task: its death is the process's


async def delete_thread(operations: Operations, life: Life, run_ids: list[str]) -> None:
    """Delete the thread, whose live runs do not end by themselves."""
    del life, run_ids
    with contextlib.suppress(errors.NotFound):  # somebody did
        await deleter(operations).delete_thread(THREAD, tenant="default", user_id=USER)


async def delete_user(operations: Operations, life: Life, run_ids: list[str]) -> None:
    """Delete the user, with what is to be told."""
    del life, run_ids
    await deleter(operations).delete_user(tenant="default", user_id=USER)


def deleter(operations: Operations) -> Deleter:
    aborter = Aborter(operations=operations, revoker=operations.publisher, sealer=lambda: DYING)  # type: ignore[arg-type]
    return Deleter(aborter=aborter, wait_s=0.0)


ACTS: Final[dict[str, Act]] = {act.__name__: act for act in (archive, deliver, delete_thread, delete_user)}


async def act(name: str, settings: Settings, run_ids: list[str], life: Life) -> bool:
    """Do it as a process that lives so long; returns whether it lived on."""
    assert settings.broker_url is not None
    publisher = CeleryPublisher(settings.broker_url.get_secret_value())
    operations = await dying_operations.mortal(settings, publisher, life)
    try:
        await ACTS[name](operations, life, run_ids)
    except Died:
        return False
    finally:
        life.left = 1_000_000
        await operations.store.close()
        publisher.close()
    return True


def act_and_be_killed(name: str, settings: Settings, run_ids: list[str], writes: int) -> None:
    """Do it in this process, which the kernel kills instead of the write after so many."""
    asyncio.run(act(name, settings, run_ids, KilledLife(writes)))


async def stored(store: Store) -> dict[str, str]:
    """Return everything that a store has, as text, by key."""
    found: dict[str, str] = {}
    client = store.client
    async for raw in client.scan_iter(count=1000):
        key = raw.decode()
        match (await client.type(key)).decode():
            case "hash":
                value: Any = await client.hgetall(key)
            case "zset":
                value = await client.zrange(key, 0, -1)
            case "set":
                value = await client.smembers(key)
            case "list":
                value = await client.lrange(key, 0, -1)
            case "stream":
                value = await client.xrange(key)
            case _:
                value = await client.get(key)
        found[key] = repr(value)
    return found
