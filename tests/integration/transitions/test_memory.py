"""What an engine keeps on its thread is committed by the verbs that commit its state, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mainstem_shared import transitions
from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import Control
from support.models import verb_calls as v
from support.models.specs import spec

SETTINGS = Settings()
Commit = Callable[[Store, Control, Changes], Awaitable[Any]]


def changes(**values: bytes | None) -> Changes:
    size = sum(len(value) for value in values.values() if value is not None)
    return Changes(engine="graph", values=values, size=size, ttl_ms=v.THREAD_MS)


async def recall(store: Store, control: Control) -> dict[str, bytes]:
    return await transitions.recall(store, control.run_id, engine="graph", ttl_ms=v.THREAD_MS)


async def checkpoint(store: Store, control: Control, memory: Changes) -> Any:
    return await transitions.checkpoint(
        store,
        control,
        cursor=Cursor(control.epoch, 0),
        state=b"state",
        fold=jsontext.dumps(v.STATE),
        live_ttl_ms=v.LIVE_MS,
        memory=memory,
    )


async def pause(store: Store, control: Control, memory: Changes, *, window_ms: int = 60_000) -> Any:
    question = Question(question_id="q", text="?")
    asked = Action(action_id="a", kind="question", questions=(question,), expires_ms=now_ms() + window_ms)
    return await transitions.pause(
        store,
        control,
        nonce=v.without_gap(),
        top=Cursor(control.epoch, 0),
        spec=spec(control.run_id),
        action=asked,
        fold=Content(),
        checkpoint=None,
        settings=SETTINGS,
        memory=memory,
    )


async def finish(store: Store, control: Control, memory: Changes) -> Any:
    return await transitions.finish(
        store,
        control,
        nonce=v.without_gap(),
        top=Cursor(control.epoch, 0),
        reason=Reason.COMPLETED,
        state=v.STATE,
        error=None,
        retention_ms=v.RETENTION_MS,
        compact_after_ms=60_000,
        memory=memory,
    )


COMMITS: dict[str, Commit] = {"checkpoint": checkpoint, "pause": pause, "finish": finish}


@pytest.mark.parametrize("how", COMMITS)
async def test_a_commit_writes_deletes_and_lists(store: Store, how: str):
    """Keys that were put stand there, deleted ones do not, the others stay; the thread lists engine and bytes."""
    control = await v.running(store)
    await checkpoint(store, control, changes(kept=b"1", old=b"2", changed=b"3"))
    await COMMITS[how](store, control, changes(changed=b"\x00\xff", new=b"", old=None))
    assert await recall(store, control) == {"kept": b"1", "changed": b"\x00\xff", "new": b""}
    thread = keys.run(control.run_id).thread
    assert await store.client.hget(thread, "memory:graph") == b"2"
    assert await store.client.pttl(keys.memory_of(control.run_id, "graph")) > v.LIVE_MS
    assert await transitions.recall(store, control.run_id, engine="other", ttl_ms=1) == {}


@pytest.mark.parametrize("how", COMMITS)
async def test_a_zombie_commits_nothing(store: Store, how: str):
    """Whoever lost the run is refused, and what it remembers with it."""
    control = await v.running(store)
    await checkpoint(store, control, changes(a=b"1"))
    await v.seal(store, control)
    before = await v.everything(store)
    answer = await COMMITS[how](store, control, changes(a=b"zombie", b=b"2"))
    assert isinstance(answer, transitions.Refused)
    assert await v.everything(store) == before


async def test_a_commit_that_comes_too_early_changes_nothing(store: Store):
    """A checkpoint of what the log does not have (any more) is not stored, nor is its memory."""
    control = await v.running(store)
    saved = await transitions.checkpoint(
        store,
        control,
        cursor=Cursor(control.epoch, 7),
        state=b"s",
        fold=b"{}",
        live_ttl_ms=v.LIVE_MS,
        memory=changes(a=b"1"),
    )
    assert saved is False
    assert await recall(store, control) == {}


async def test_an_empty_memory_leaves_no_key(store: Store):
    control = await v.running(store)
    await checkpoint(store, control, changes(a=b"1"))
    await checkpoint(store, control, changes(a=None))
    assert not await store.client.exists(keys.memory_of(control.run_id, "graph"))
    assert await store.client.hkeys(keys.run(control.run_id).thread) == [b"active"]


async def test_as_many_keys_as_may_be_are_one_commit(store: Store):
    """The settings' bound of keys, all of them put and then all of them deleted."""
    control = await v.running(store)
    most = 3000
    values: dict[str, bytes | None] = {f"key {n}": b"x" * 100 for n in range(most)}
    await checkpoint(store, control, changes(**values))
    assert len(await recall(store, control)) == most
    await checkpoint(store, control, changes(**dict.fromkeys(values)))
    assert await recall(store, control) == {}


async def test_a_long_window_keeps_the_memory(store: Store):
    """A pause of a month that changes nothing in a memory: it is there when a human decides."""
    control = await v.running(store)
    await checkpoint(store, control, changes(a=b"1"))
    month_ms = 30 * 86_400_000
    nothing = Changes(engine="", values={}, size=0, ttl_ms=0)
    assert isinstance(await pause(store, control, nothing, window_ms=month_ms), transitions.Paused)
    assert await store.client.pttl(keys.memory_of(control.run_id, "graph")) > month_ms


async def test_the_threads_last_run_takes_it_along(store: Store):
    """A memory outlives runs, as long as one of its thread is there; `keep_memory` leaves it, `erase` does not."""
    first = await v.running(store, thread="memories")
    await finish(store, first, changes(a=b"1"))
    second = await v.running(store, thread="memories")
    await v.finish(store, second)
    await transitions.forget(store, first.run_id)
    await transitions.erase(store, "default", "memories")
    assert await recall(store, second) == {"a": b"1"}
    await transitions.forget(store, second.run_id, keep_memory=True)
    assert await recall(store, second) == {"a": b"1"}
    await transitions.erase(store, "default", "memories")
    assert await v.everything(store) == {}

    third = await v.running(store, thread="memories")
    await finish(store, third, changes(a=b"1"))
    await transitions.forget(store, third.run_id)
    assert await recall(store, third) == {}
