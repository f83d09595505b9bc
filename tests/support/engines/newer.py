"""Imitates the next version of Mainstem; `engines_newer` turns a worker into it.

Its runs' records have version 2 and a field that this version does not know; so have their logs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.model import ids, runs
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext

VERSION = runs.RECORD_VERSION + 1
TTL_MS = 600_000
LONG = 10_000  # words: a run that is under way for as long as a test takes


class NewerSpec(runs.Spec):
    """A spec with a field more."""

    mood: str = "hopeful"


@engine("newer")
async def speak(run: RunContext[dict[str, Any]]) -> None:
    """Say words, and before each what only later versions understand."""
    for k in range(run.input["tokens"]):
        run._channel.emit("mood.changed", {"mood": k, "at": now_ms()})
        await run.text(f"w{k}" if k == 0 else f" w{k}")
        await asyncio.sleep(0.02)


async def start(store: Store, thread_id: str, **given: Any) -> str:
    """Start a run as a gateway of the next version does; its message is not published yet."""
    run_id = ids.run_id("default", thread_id, ids.uuid7())
    spec = NewerSpec(
        v=VERSION,
        run_id=run_id,
        thread_id=thread_id,
        user_id="local",
        tenant="default",
        engine="newer",
        metadata={},
        created_ms=now_ms(),
        max_duration_s=600,
    )
    await store.client.zadd(keys.run(run_id).active, {run_id: now_ms() + TTL_MS})
    started = await transitions.start(
        store,
        spec,
        b'{"tokens": %d}' % given["tokens"],
        nonce=ids.nonce(),
        if_active="reject",
        live_ttl_ms=TTL_MS,
        thread_ttl_ms=TTL_MS,
    )
    assert isinstance(started, transitions.Started)
    return run_id


def become() -> None:
    """Have this process be of the next version."""
    runs.RECORD_VERSION = VERSION  # pyright: ignore[reportAttributeAccessIssue] - what a later version does
