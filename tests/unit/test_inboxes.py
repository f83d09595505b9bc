"""`run.inbox`: order, waiting, cancellation, and the pause that comes first; for both kinds of engines."""

from __future__ import annotations

import asyncio

import pytest

from mainstem_shared import errors
from mainstem_tasks import RunContext, SyncRunContext, engine
from mainstem_tasks.sdk import registry
from mainstem_tasks.sdk.inboxes import Inbox
from mainstem_tasks.sdk.pauses import Paused
from mainstem_tasks.testing import SENT, MemoryChannel, run_engine


def said(text: str) -> dict[str, str]:
    return {"input_id": f"id-{text}", "text": text, "by": "ann", "sent_at": SENT}


async def test_readers_wait_for_what_comes():
    """Several readers get each text once, whoever is first; a reader that gave up takes none with it."""
    channel = MemoryChannel()
    inbox = Inbox(channel, read=3)
    readers = [asyncio.create_task(inbox.get()) for _ in range(3)]
    await asyncio.sleep(0)
    readers[0].cancel()
    inbox.deliver([said("a")])
    await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED, timeout=1)
    inbox.deliver([said("b")])
    assert sorted(await asyncio.gather(*readers[1:])) == ["a", "b"]
    assert (inbox.read, inbox.known, inbox.empty()) == (5, 5, True)
    assert [event.payload()["text"] for event in channel.events] == ["a", "b"]


async def test_an_input_that_the_log_does_not_take_is_not_read():
    """The run is over for this segment: whoever goes on is told it."""
    channel = MemoryChannel()
    inbox = Inbox(channel)
    inbox.deliver([said("a")])
    channel.closed = True
    with pytest.raises(errors.ChannelClosed):
        inbox.get_nowait()
    assert (inbox.read, inbox.known) == (0, 1)


async def test_a_pause_comes_first():
    """Once the engine asked a human, no other of its tasks reads on, not even one that waits already."""
    inbox = Inbox(MemoryChannel())
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.deliver([said("a")])
    inbox.close()
    with pytest.raises(Paused):
        await reader
    with pytest.raises(Paused):
        inbox.get_nowait()
    assert inbox.known == 1


@engine("two-tasks")
async def two_tasks(run: RunContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(run.ask(["Well?"]))
        group.create_task(run.inbox.get())


@engine("sync-listener")
def sync_listener(run: SyncRunContext) -> None:
    run.text(run.inbox.get())
    while not run.inbox.empty():
        run.text(run.inbox.get_nowait())
    with pytest.raises(asyncio.QueueEmpty):
        run.inbox.get_nowait()


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """This module's engines are nobody else's."""
    yield
    for name in ("two-tasks", "sync-listener"):
        registry._engines.pop(name, None)


async def test_a_reader_beside_an_asking_task_ends_with_it():
    """The engine's pause is a pause, whatever its other tasks wait for."""
    run = await run_engine(two_tasks)
    assert run.action is not None


async def test_plain_functions_listen_too():
    """The same, without `await`."""
    assert (await run_engine(sync_listener, inbox=["a", "b", "c"])).text == "abc"
