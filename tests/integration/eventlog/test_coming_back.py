"""Coming to a run late, again, or several at once: what a reader finds, in process."""

from __future__ import annotations

import asyncio

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.eventlog.reading.subscriptions import End
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model import ids
from mainstem_shared.model.actions import Action, Call
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Script, Store
from support.clients.checking_reader import Reader
from support.clients.following import follow, reached
from support.models.logs import RunLog
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

# -- what there is to find


@pytest.mark.parametrize("state", ["queued", "claimed", "log lost"])
async def test_a_run_that_said_nothing_is_read_as_empty(store: Store, tailer: Tailer, state: str):
    """No content, no steps, no usage, and no error; a snapshot of it is as empty."""
    log = await RunLog.start(store)
    if state != "queued":
        await log.claim()
    if state == "log lost":
        await store.client.delete(log.keys.log)
    run = await run_states.get_run(store, log.run_id)
    assert (run.text, run.content, run.steps) == ("", [], [])
    assert (run.usage, run.title, run.action) == (None, None, None)
    assert run.error is None
    if state != "log lost":  # the owner of a lost log writes it anew: readers wait for that
        async with tailer.subscribe(log.run_id, from_snapshot=True) as subscription:
            [frame] = await anext(subscription)
        assert frame.payload() == {
            "text": "", "content": [], "steps": [], "usage": None, "title": None, "action": None,
        }  # fmt: skip


@pytest.mark.parametrize("stored", [True, False])
async def test_a_snapshot_has_all_that_a_reader_shows(store: Store, tailer: Tailer, *, stored: bool):
    """Text, reasoning, tool calls, steps, usage, context usage, title, agent; stored or folded for the reader."""
    log = await RunLog.start(store)
    await log.claim()
    call = {"step_id": "c1", "kind": "tool_call", "name": "f", "arguments": {"x": []}, "at": 1}
    await log.append(
        (Type.REASONING_DELTA, {"part": 0, "text": "why"}),
        (Type.MESSAGE_DELTA, {"part": 1, "text": "hello"}),
        (Type.STEP_STARTED, call),
        (Type.STEP_COMPLETED, {"step_id": "c1", "state": "completed", "result": 1.5, "at": 2}),
        (Type.USAGE, {"input_tokens": 1, "output_tokens": 2}),
        (Type.CONTEXT_USAGE, {"used_tokens": 5, "max_tokens": 10}),
        (Type.CONTEXT_USAGE, {"used_tokens": 6, "max_tokens": 10}),
        (Type.TITLE, {"title": "T"}),
        (Type.AGENT_UPDATED, {"name": "writer"}),
    )
    if stored:
        await log.snapshot()
    async with tailer.subscribe(log.run_id, from_snapshot=True) as subscription:
        [frame] = await anext(subscription)
    seen = frame.payload()
    assert [part["type"] for part in seen["content"]] == ["reasoning", "text", "tool_call"]
    assert (seen["content"][2]["arguments"], seen["content"][2]["result"]) == ({"x": []}, 1.5)
    assert [(step["step_id"], step["state"]) for step in seen["steps"]] == [("c1", "completed")]
    assert seen["usage"] == {"input_tokens": 1, "output_tokens": 2}
    assert seen["context_usage"] == {"used_tokens": 6, "max_tokens": 10}
    assert (seen["title"], seen["agent"], seen["text"]) == ("T", {"name": "writer"}, "hello")


async def test_a_state_is_of_one_moment(store: Store):
    """Whatever happens to the run meanwhile, record, snapshot and entries of one read belong together."""
    log = await RunLog.start(store)
    done = False

    async def live() -> None:
        nonlocal done
        for _ in range(40):
            await log.claim()
            await log.say(3)
            await log.snapshot()
            await log.say(2)
            await log.resync()
            await log.say(1)
            await log.snapshot()
            await log.handover()
        done = True

    async def look() -> int:
        seen = 0
        while not done:
            state = await transitions.read(store, log.run_id)
            assert isinstance(state, transitions.State)
            at = state.snapshot_cursor or Cursor(0, 0)
            for entry in state.entries:
                assert entry.follows(at), f"{entry.cursor} after {at}"
                at = entry.cursor
            assert at == state.top
            assert state.top.epoch == state.epoch
            run = run_states.run(state)
            assert run.text == " ".join(f"w{k}" for k in range(len(run.text.split())))
            seen += 1
        return seen

    _, *looks = await asyncio.gather(live(), look(), look())
    assert min(looks) > 20


async def test_a_reader_of_a_run_that_is_being_stopped_gets_its_end(store: Store, tailer: Tailer):
    """Asked to stop, but not over: who comes now reads what was said, and then, on the same stream, the end."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    await transitions.stop(store, log.run_id, reason=Reason.USER_ABORT)
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(tailer, reader))
        await reached(reader, log.top)
        assert not reader.finished
        await log.say(1)
        await log.finish(Reason.USER_ABORT)
    assert following.result() is End.FINISHED
    reader.check_end()


# -- coming again


async def test_reconnecting_a_hundred_times_costs_no_event_and_no_time(store: Store, tailer: Tailer):
    """Each connection gets the next event at once, whether it was written before it or comes while it waits."""
    log = await RunLog.start(store)
    await log.claim()
    reader = Reader(log)
    reader.take(log.entries[0].cursor, log.entries[0].type, log.entries[0].data)
    reader.take(log.entries[1].cursor, log.entries[1].type, log.entries[1].data)
    loop = asyncio.get_running_loop()
    took: list[float] = []
    for n in range(100):
        if n % 2:
            await log.say()
        async with tailer.subscribe(log.run_id, after=reader.cursor) as subscription:
            waiting = asyncio.ensure_future(anext(subscription))
            if not n % 2:
                await asyncio.sleep(0)
                await log.say()
            began = loop.time()
            for frame in await asyncio.wait_for(waiting, 5):
                reader.take(frame.cursor, frame.type, frame.data)
            took.append(loop.time() - began)
    await log.finish()
    assert await follow(tailer, reader) is End.FINISHED
    reader.check_end()
    assert reader.ids == [entry.cursor for entry in log.entries]
    assert sorted(took)[90] < 1, "blocking reads of seconds stood in the way"
    assert (tailer.followed_runs, tailer.subscriptions) == (0, 0)


async def test_readers_that_come_at_once_each_get_the_whole_gap(store: Store, tailer: Tailer):
    """Ten with the same cursor, while the run goes on: everybody gets everything, and one topic serves them."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(20)
    readers = [Reader(log) for _ in range(10)]
    for reader in readers:
        for entry in log.entries[:5]:
            reader.take(entry.cursor, entry.type, entry.data)
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(follow(tailer, reader))
        for _ in range(20):
            await log.say()
        for reader in readers:
            await reached(reader, log.top)
        assert (tailer.followed_runs, tailer.subscriptions) == (1, 10)
        await log.finish()
    for reader in readers:
        reader.check_end()
        assert reader.ids == [entry.cursor for entry in log.entries]


class HeldStore(Store):
    """A real store whose answers to pages are held back while the gate is closed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.held = 0

    async def verb(self, script: Script, *args, **options):
        reply = await super().verb(script, *args, **options)
        if script is transitions.PAGE:
            self.held += 1
            await self.gate.wait()
        return reply


async def test_a_subscription_given_up_half_way_takes_nothing_along(store_url: str, store: Store):
    """Cancelled before it was open, with its page already read: the next one with that cursor gets it all."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    held = HeldStore(store_url)
    async with Tailer(held) as tailer:
        reader = Reader(log)
        given_up = asyncio.create_task(follow(tailer, Reader(log)))
        await wait_until_async(lambda: held.held, description="the page to be read")
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert (tailer.followed_runs, tailer.subscriptions) == (0, 0)
        held.gate.set()
        await log.finish()
        assert await follow(tailer, reader) is End.FINISHED
    reader.check_end()
    assert reader.ids == [entry.cursor for entry in log.entries]
    await held.close()


async def test_a_subscription_that_failed_can_be_made_again(private_valkey: ValkeyProcess):
    """The store was unavailable: nothing is left of the attempt, and the same tailer serves the next one."""
    store = Store(private_valkey.url(), patience_s=0.2)
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        await asyncio.to_thread(private_valkey.stop)
        for _ in range(3):
            with pytest.raises(errors.StoreUnavailable):
                await follow(tailer, Reader(log))
            assert (tailer.followed_runs, tailer.subscriptions) == (0, 0)
        await asyncio.to_thread(private_valkey.start)
        await store.patiently(store.client.ping, patience_s=10)
        await log.claim()
        await log.finish()
        reader = Reader(log)
        assert await follow(tailer, reader) is End.FINISHED
        reader.check_end()
    await store.close()


# -- a pause, whenever it comes


async def pause(log: RunLog) -> None:
    """Let the run wait for an approval."""
    call = Call(call_id="c", name="tool", arguments={"n": 1}, arguments_schema={"type": "object"})
    state = await transitions.read(log.store, log.run_id)
    assert isinstance(state, transitions.State)
    paused = await transitions.pause(
        log.store,
        log.control,
        nonce=ids.nonce(),
        top=log.top,
        spec=state.spec,
        action=Action(action_id="a", kind="tool_approval", calls=(call,), expires_ms=now_ms() + 60_000),
        fold=log.fold,
        checkpoint=None,
        settings=Settings(),
    )
    assert isinstance(paused, transitions.Paused)
    await log.learn()


@pytest.mark.parametrize("comes", ["before", "after", "after, from the start"])
async def test_a_pause_is_shown_once_to_whoever_comes(store: Store, tailer: Tailer, comes: str):
    """As an event to a reader that took its snapshot before, in the snapshot of one that comes later; not in both."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    if comes != "before":
        await pause(log)
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = follow(tailer, reader, from_snapshot=comes != "after, from the start")
        task = group.create_task(following)
        await reached(reader, log.top)
        if comes == "before":
            assert reader.fold.action is None
            await pause(log)
            await reached(reader, log.top)
        assert reader.fold.action is not None
        assert reader.fold.action["action_id"] == "a"
        assert reader.types.count(Type.APPROVAL_REQUIRED) == (comes != "after")
        assert not reader.finished
        await decide(log)
        await reached(reader, log.top)
        assert reader.fold.action is None, "nothing is waited for any more"
        task.cancel()


async def decide(log: RunLog) -> None:
    """Answer what the run waits for."""
    seen = await transitions.read_action(log.store, log.run_id, "a")
    assert isinstance(seen, transitions.Waiting)
    kept = {"action_id": "a", "kind": "tool_approval", "decisions": [{"call_id": "c", "type": "approve"}]}
    resolved = await transitions.resolve(
        log.store,
        log.run_id,
        nonce=ids.nonce(),
        action_id="a",
        fingerprint=seen.fingerprint,
        digest="d",
        decisions=kept,
        kind=Type.APPROVAL_RESOLVED,
        body={**kept, "by": None, "at": now_ms()},
        live_ttl_ms=60_000,
    )
    assert isinstance(resolved, transitions.Resolved)
    await log.learn()


async def test_an_owner_that_meets_a_pause_or_no_run_just_lets_go(store: Store):
    """Its end is refused: the pause, or the absence, stays as it is."""
    log = await RunLog.start(store)
    await log.claim()
    await pause(log)
    before = [entry.cursor for entry in log.entries]

    async def end() -> object:
        return await transitions.finish(
            store,
            log.control,
            nonce=ids.nonce(),
            top=log.top,
            reason=Reason.COMPLETED,
            state=log.fold.dump(),
            error=None,
            retention_ms=60_000,
            compact_after_ms=60_000,
        )

    assert isinstance(await end(), transitions.Refused)
    await log.learn()
    assert [entry.cursor for entry in log.entries] == before
    assert await store.client.hget(log.keys.record, "status") == b"requires_action"
    await store.client.flushdb()
    assert isinstance(await end(), transitions.Gone)
    assert await store.client.dbsize() == 0
