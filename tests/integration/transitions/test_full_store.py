"""A full store: runs can end, others cannot begin, and nothing is left half done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = Store(store_url)
    yield store
    await store.client.config_set("maxmemory", 0)
    await store.close()


async def fill(store: Store) -> None:
    """Put the server over its limit, and make it forget its scripts."""
    await store.client.script_flush()
    await store.client.config_set("maxmemory", 1)


Ask = Callable[[Store, transitions.Control], Awaitable[Any]]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (v.finish, transitions.Finished(epoch=3, next_run=None)),
        (v.handover, 3),
        (v.resync, 3),
        (lambda store, control: v.snapshot(store, control, Cursor(2, 0)), True),
    ],
    ids=["finish", "handover", "resync", "snapshot"],
)
async def test_what_ends_a_run_or_frees_memory_is_never_refused(store: Store, ask: Ask, answer: object):
    """Also by a server that does not know the script yet."""
    control = await v.running(store)
    await fill(store)
    assert await ask(store, control) == answer


async def test_a_lost_run_can_be_ended(store: Store):
    """Stop, read, seal, finish and compact: the whole path of somebody who is not the owner."""
    control = await v.running(store)
    await v.append(store, control, "a")
    await fill(store)
    assert isinstance(
        await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT), transitions.Intended
    )
    sealed = await v.seal(store, control)
    assert isinstance(sealed, transitions.Control)
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert isinstance(await v.finish(store, sealed, top=state.top), transitions.Finished)
    assert await transitions.compact(store, control.run_id)


async def test_the_next_run_of_the_thread_is_promoted(store: Store):
    """Ending frees the thread as well."""
    first, second = v.new_run("t"), v.new_run("t")
    await v.start(store, first)
    await v.start(store, second, if_active="enqueue")
    await fill(store)
    holder = transitions.Control(run_id=first, epoch=1, owner="")
    assert await v.finish(store, holder) == transitions.Finished(epoch=2, next_run=second)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, queued: v.start(store, v.new_run("t")),
        lambda store, queued: v.start(store, v.new_run("t"), if_active="replace", idempotency=("a", "b")),
        v.claim,
        lambda store, queued: transitions.published(store, queued, task_id="t"),
    ],
    ids=["start", "replace", "claim", "published"],
)
async def test_what_needs_more_memory_is_refused_cleanly(
    store: Store, ask: Callable[[Store, str], Awaitable[Any]]
):
    """StoreUnavailable, at once, with nothing written; and it works again when there is room."""
    queued = v.new_run("t")
    await v.start(store, queued)
    before = await v.everything(store)
    await fill(store)
    with pytest.raises(errors.StoreUnavailable, match="memory"):
        await ask(store, queued)
    assert await v.everything(store) == before
    await store.client.config_set("maxmemory", 0)
    assert await ask(store, queued)


async def test_the_final_event_is_written_whole(store: Store):
    """A content of megabytes ends up in the last entry although the memory was full before."""
    control = await v.running(store)
    await fill(store)
    content = [{"type": "text", "text": "x" * 4_000_000}]
    assert isinstance(
        await v.finish(store, control, state={**v.STATE, "content": content}), transitions.Finished
    )
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert state.entries[0].payload()["content"] == content
    assert await store.client.pttl(keys.run(control.run_id).log) > 0
