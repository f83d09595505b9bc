"""`AsyncRuns` and `Runs` against a real store and broker; a stand-in worker moves the runs along."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import aclosing

import pytest
import redis

from mainstem_api import AsyncRuns, RunEvent, Runs
from mainstem_shared import errors, transitions
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


class Owner:
    """A run's owner, one entry at a time: what a worker does, without the worker."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.fold = Content()

    async def claim(self) -> Owner:
        claimed = await transitions.claim(
            self.store, self.run_id, nonce=ids.nonce(), owner="w1", task_id="t", live_ttl_ms=60_000
        )
        assert isinstance(claimed, transitions.Claimed)
        self.top = Cursor(claimed.epoch, 0)
        return self

    async def say(self, text: str) -> None:
        payload, cursor = {"part": 0, "text": text}, self.top.next()
        await self.store.client.xadd(
            keys.run(self.run_id).log, {b"d": jsontext.dumps(payload)}, id=str(cursor), nomkstream=True
        )
        self.fold.apply(Type.MESSAGE_DELTA, payload)
        self.top = cursor

    async def snapshot(self) -> None:
        """Store a snapshot; the verb trims what the one before covered."""
        state = jsontext.dumps(self.fold.dump())
        assert await transitions.snapshot(
            self.store, self._control, cursor=self.top, state=state, live_ttl_ms=60_000
        )

    async def finish(self) -> None:
        outcome = await transitions.finish(
            self.store,
            self._control,
            nonce=ids.nonce(),
            top=self.top,
            reason=Reason.COMPLETED,
            state=self.fold.dump(),
            error=None,
            retention_ms=60_000,
            compact_after_ms=60_000,
        )
        assert isinstance(outcome, transitions.Finished)

    @property
    def _control(self) -> transitions.Control:
        return transitions.Control(run_id=self.run_id, epoch=self.top.epoch, owner="w1")


def text_of(events: list[RunEvent]) -> str:
    """What a reader shows after these events."""
    text = ""
    for event in events:
        if event.type == "message.delta":
            text += event.data["text"]
        elif "text" in event.data and "content" in event.data:
            text = event.data["text"]
    return text


async def test_a_started_run_is_queued_published_and_readable(runs: AsyncRuns, broker_url: str):
    """start returns the durable run; the broker has its message; get returns the same."""
    started = await runs.start("t", "demo", {"tokens": 3}, user_id="ann", metadata={"a": 1})
    assert started.run.status is Status.QUEUED
    assert not started.replayed
    assert await runs.get(started.run_id, user_id="ann") == started.run
    with redis.Redis.from_url(broker_url) as client:
        assert client.llen("celery") == 1


async def test_a_replay_is_marked_and_shows_the_run_as_it_is_now(runs: AsyncRuns, store: Store):
    """Repeating a start with its key returns the run with what it has done meanwhile."""
    first = await runs.start("t", "demo", idempotency_key="k")
    owner = await Owner(store, first.run_id).claim()
    await owner.say("hello")
    again = await runs.start("t", "demo", idempotency_key="k")
    assert again.replayed
    assert (again.run_id, again.run.status, again.run.text) == (first.run_id, Status.RUNNING, "hello")


async def test_events_are_followed_live_to_the_end_once_each(runs: AsyncRuns, store: Store):
    """From before the claim to run.finished: every entry of the log, in order, then the iteration ends."""
    run_id = (await runs.start("t", "demo")).run_id

    async def work() -> None:
        owner = await Owner(store, run_id).claim()
        for n in range(50):
            await owner.say(f"{n} ")
        await owner.finish()

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        events = [event async for event in runs.events(run_id)]
    log = [entry_id.decode() for entry_id, _ in await store.client.xrange(keys.run(run_id).log)]
    assert [event.cursor for event in events] == log
    assert events[0].type == "run.created"
    assert events[-1].type == "run.finished"
    assert text_of(events[:-1]) == events[-1].data["text"] == "".join(f"{n} " for n in range(50))


async def test_events_go_on_after_any_cursor(runs: AsyncRuns, store: Store):
    """Each suffix of the log is what a reader with that cursor gets; after the end there is nothing."""
    run_id = (await runs.start("t", "demo")).run_id
    owner = await Owner(store, run_id).claim()
    for n in range(3):
        await owner.say(str(n))
    await owner.finish()
    everything = [event async for event in runs.events(run_id)]
    for seen, event in enumerate(everything, start=1):
        assert [e async for e in runs.events(run_id, event.cursor)] == everything[seen:]


async def test_a_trimmed_range_is_bridged_by_a_snapshot(runs: AsyncRuns, store: Store):
    """Where a log's beginning is gone, a reader from the start gets a snapshot and the rest: one text."""
    run_id = (await runs.start("t", "demo")).run_id
    owner = await Owner(store, run_id).claim()
    for part in "abcd":
        await owner.say(part)
        await owner.snapshot()
    await owner.say("e")
    seen: list[RunEvent] = []
    async with aclosing(runs.events(run_id)) as events:
        async for event in events:
            seen.append(event)
            if text_of(seen) == "abcde":
                break
    assert seen[0].type == "snapshot"


async def test_events_survive_a_restart_of_the_store(private_valkey: ValkeyProcess):
    """The server is killed and comes back: the iteration goes on where it was, and wait returns."""
    settings = Settings(redis_url=private_valkey.url(0), broker_url=private_valkey.url(1))
    store = Store(private_valkey.url(0), patience_s=10)
    async with AsyncRuns(settings) as runs:
        run_id = (await runs.start("t", "demo")).run_id
        owner = await Owner(store, run_id).claim()
        seen: list[RunEvent] = []

        async def follow() -> None:
            seen.extend([event async for event in runs.events(run_id)])

        async with asyncio.TaskGroup() as group:
            group.create_task(follow())
            waiting = group.create_task(runs.wait(run_id, 60))
            await owner.say("before ")
            await asyncio.to_thread(private_valkey.sigkill)
            await asyncio.to_thread(private_valkey.start)
            await store.patiently(lambda: owner.say("after"))
            await owner.finish()
    await store.close()
    assert text_of(seen[:-1]) == "before after"
    assert waiting.result().text == "before after"


async def test_wait_returns_the_finished_run_or_says_that_it_is_not(runs: AsyncRuns, store: Store):
    """The whole outcome; a timeout is a TimeoutError and leaves the run alone."""
    run_id = (await runs.start("t", "demo")).run_id
    with pytest.raises(TimeoutError):
        await runs.wait(run_id, 0.05)
    waiting = asyncio.create_task(runs.wait(run_id, 10))
    await asyncio.sleep(0)  # it looks at a run that is not over
    owner = await Owner(store, run_id).claim()
    await owner.say("done")
    await owner.finish()
    for run in (await waiting, await runs.wait(run_id, 10)):
        assert (run.status, run.reason, run.text) == (Status.SUCCEEDED, Reason.COMPLETED, "done")


async def test_what_is_not_yours_does_not_exist(runs: AsyncRuns):
    """Another user, another tenant, a made-up id and nonsense are all NotFound, for every method."""
    run_id = (await runs.start("t", "demo", user_id="ann")).run_id
    never = ids.run_id("default", "t", ids.uuid7())
    strangers = [
        (run_id, {"user_id": "bob"}),
        (run_id, {"user_id": "ann", "tenant": "other"}),
        (never, {}),
        ("nonsense", {}),
    ]
    for asked, whose in strangers:
        with pytest.raises(errors.NotFound):
            await runs.get(asked, **whose)
        with pytest.raises(errors.NotFound):
            await anext(runs.events(asked, **whose))
        with pytest.raises(errors.NotFound):
            await runs.wait(asked, 1, **whose)


async def test_lists_are_newest_first_filtered_and_paged_without_gap(runs: AsyncRuns, store: Store):
    """Pages of any size, put together, are exactly the runs asked for, newest first."""
    mine = [(await runs.start(f"t{n}", "demo", user_id="ann")).run_id for n in range(7)]
    theirs = (await runs.start("t", "demo", user_id="bob")).run_id
    owner = await Owner(store, mine[2]).claim()
    await owner.finish()

    async def listed(limit: int, **query) -> list[str]:
        found, cursor = [], None
        while True:
            page = await runs.list(limit=limit, cursor=cursor, **query)
            found += [run.run_id for run in page.runs]
            assert len(page.runs) <= limit
            if (cursor := page.next) is None:
                return found

    everything = await listed(100)
    assert sorted(everything) == sorted([*mine, theirs])
    created = [(await runs.get(run_id)).created_at for run_id in everything]
    assert created == sorted(created, reverse=True)
    for limit in (1, 2, 3, 7, 100):
        anns = [run_id for run_id in everything if run_id in mine]
        assert await listed(limit) == everything
        assert await listed(limit, user_id="ann") == anns
        assert await listed(limit, user_id="ann", active=True) == [r for r in anns if r != mine[2]]
        assert await listed(limit, status=Status.SUCCEEDED) == [mine[2]]
        assert await listed(limit, thread_id="t3") == [mine[3]]
        assert await listed(limit, thread_id="t3", user_id="bob") == []
    assert await listed(5, tenant="other") == []


async def test_runs_of_one_millisecond_are_listed_each_once(runs: AsyncRuns, store: Store):
    """More index entries of one time than one read returns: pages neither repeat nor skip any of them."""
    template = await runs.start("t", "demo")
    spec = await store.client.hget(keys.run(template.run_id).record, "spec")
    created = int(template.run.created_at.timestamp() * 1000)
    expected = {template.run_id}
    async with store.client.pipeline(transaction=False) as pipe:
        for _ in range(250):
            run_id = ids.run_id("default", "t", ids.uuid7())
            changed = {**jsontext.loads(spec), "run_id": run_id}
            record = {"status": "queued", "epoch": 1, "spec": jsontext.dumps(changed)}
            pipe.hset(keys.run(run_id).record, mapping=record)
            pipe.expire(keys.run(run_id).record, 60)
            pipe.zadd(keys.run(run_id).recent, {run_id: created})
            expected.add(run_id)
        await pipe.execute()
    found: list[str] = []
    cursor = None
    while True:
        page = await runs.list(limit=60, cursor=cursor)
        found += [run.run_id for run in page.runs]
        if (cursor := page.next) is None:
            break
    assert len(found) == len(expected)
    assert set(found) == expected


async def test_lists_drop_entries_of_runs_that_are_gone_but_not_of_starts_under_way(
    runs: AsyncRuns, store: Store
):
    """An old entry without a record is removed; a fresh one may be a start between its two writes."""
    run_id = (await runs.start("t", "demo")).run_id
    created = await store.client.zscore(keys.run(run_id).recent, run_id)
    old, fresh = (ids.run_id("default", "gone", ids.uuid7()) for _ in range(2))
    await listed.put(store.client, "recent", {old: created - 3_600_000, fresh: created})
    assert [run.run_id for run in (await runs.list()).runs] == [run_id]
    left = set(await listed.scores(store.client, "recent"))
    assert left == {run_id, fresh}


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"limit": 0}, errors.InvalidRequest),
        ({"limit": 101}, errors.InvalidRequest),
        ({"cursor": "x"}, errors.InvalidCursor),
        ({"cursor": "1.abc"}, errors.InvalidCursor),
    ],
)
async def test_lists_refuse_nonsense(runs: AsyncRuns, query: dict, kind: type[errors.InvalidRequest]):
    """A limit out of range or a made-up cursor is the caller's error."""
    with pytest.raises(kind):
        await runs.list(**query)


def test_without_servers_the_client_says_where_it_looked(tmp_path):
    """No address given and no embedded server running: the error names the directory and the remedy."""
    with pytest.raises(errors.MainstemError, match=str(tmp_path)):
        AsyncRuns(Settings(data_dir=tmp_path))


def test_the_blocking_client_does_all_the_same(settings: Settings):
    """Every method, from several threads at once, without an event loop in sight."""
    with Runs(settings) as runs:
        run_id = runs.start("t", "demo", {"tokens": 1}, idempotency_key="k").run_id
        assert runs.start("t", "demo", {"tokens": 1}, idempotency_key="k").replayed
        assert [run.run_id for run in runs.list(active=True).runs] == [run_id]
        with pytest.raises(errors.ThreadBusy):
            runs.start("t", "demo")
        with pytest.raises(TimeoutError):
            runs.wait(run_id, 0.05)
        _finish(settings, run_id)
        seen: list[list[RunEvent]] = []
        threads = [threading.Thread(target=lambda: seen.append(list(runs.events(run_id)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [text_of(events) for events in seen] == ["hello"] * 4
        assert runs.wait(run_id, 10).text == runs.get(run_id).text == "hello"


def test_leaving_the_blocking_iteration_early_is_clean(settings: Settings):
    """The iterator can be closed in mid-run; the client goes on working."""
    with Runs(settings) as runs:
        run_id = runs.start("t", "demo").run_id
        events = runs.events(run_id)
        assert next(events).type == "run.created"
        events.close()
        assert runs.get(run_id).run_id == run_id


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # what is tested
def test_the_blocking_client_may_be_carried_over_a_fork(settings: Settings):
    """Used before the fork, it works in child and parent, each over connections of its own."""
    with Runs(settings) as runs:
        run_id = runs.start("t", "demo").run_id
        child = os.fork()
        if child == 0:
            status = 1
            try:
                runs.start("of the child", "demo")
                status = 0 if runs.get(run_id).run_id == run_id else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(runs.list().runs) == 2


async def test_the_blocking_client_refuses_to_wait_for_itself(settings: Settings):
    """Called on its own background loop it would wait for ever: it raises instead."""
    from mainstem_tasks.celery_support.background_loop import background

    runs = Runs(settings)

    async def on_the_background_loop() -> None:
        runs.get("x")

    future = asyncio.run_coroutine_threadsafe(on_the_background_loop(), background().loop)
    with pytest.raises(RuntimeError, match="AsyncRuns"):
        await asyncio.wrap_future(future)


async def test_closing_ends_iterations_with_an_error_not_as_if_the_run_were_over(settings: Settings):
    """A closed client's iteration never looks like the end of the run."""
    runs = AsyncRuns(settings)
    run_id = (await runs.start("t", "demo")).run_id
    seen: list[RunEvent] = []

    async def follow() -> None:
        async for event in runs.events(run_id):
            seen.append(event)  # noqa: PERF401 - extend would show nothing before the end

    following = asyncio.ensure_future(follow())
    await wait_until_async(lambda: seen, description="the first event")
    await runs.aclose()
    with pytest.raises(errors.StoreUnavailable):
        await following


def _finish(settings: Settings, run_id: str) -> None:
    async def work() -> None:
        assert settings.redis_url is not None
        store = Store(settings.redis_url.get_secret_value())
        owner = await Owner(store, run_id).claim()
        await owner.say("hello")
        await owner.finish()
        await store.close()

    asyncio.run(work())
