"""The pool's parts that need neither Celery nor a broker: callback thread, daemon threads, hooks."""

from __future__ import annotations

import asyncio
import sys
import threading

from mainstem_tasks.celery_support.cancellation import Cancellation
from mainstem_workers.pool.callback_thread import CallbackThread
from mainstem_workers.pool.daemon_threads import DaemonThreads
from mainstem_workers.pool.jobs import Phase
from mainstem_workers.pool.shutdown import ShutdownHooks
from mainstem_workers.pool.slots import Slots
from support.waiting import wait_until


def test_callbacks_run_in_order_whatever_they_raise():
    """Callbacks run in the order posted, on one thread; one that raises stops nobody."""
    seen: list[object] = []
    drained = threading.Event()
    callbacks = CallbackThread(drained.set)
    callbacks.start()
    for number in range(100):
        callbacks.post(seen.append, number)
        callbacks.post(lambda: 1 / 0)
    callbacks.post(sys.exit)
    callbacks.post(seen.append, "last")
    assert drained.wait(5)
    assert callbacks.stop(5)
    assert seen == [*range(100), "last"]


def test_backlog_tells_how_far_behind():
    """The backlog counts what waits and how long the current callback has been waiting."""
    release = threading.Event()
    callbacks = CallbackThread(lambda: None)
    callbacks.start()
    callbacks.post(release.wait)
    callbacks.post(print)
    backlog = wait_until(
        lambda: (now := callbacks.backlog).oldest_s > 0.05 and now, description="the backlog to age"
    )
    assert backlog.waiting == 2
    assert not callbacks.stop(0.05)
    release.set()
    wait_until(lambda: callbacks.backlog.waiting == 0, description="the callbacks to end")


def test_daemon_threads_are_reused_and_capped():
    """No more threads than the size; idle ones are used again; errors reach the future."""
    started = []
    pool = DaemonThreads("unit", 2, lambda: started.append(threading.current_thread().daemon))
    release = threading.Event()
    waiting = [pool.submit(release.wait, 5) for _ in range(4)]
    assert pool.threads == 2
    release.set()
    assert all(future.result(5) for future in waiting)
    assert isinstance(pool.submit(lambda: 1 / 0).exception(5), ZeroDivisionError)
    assert pool.threads == 2
    assert started == [True, True]
    pool.shutdown()


async def test_hooks_run_backwards_and_bounded():
    """Hooks run last registered first; one that hangs or fails delays the others by its timeout at most."""
    seen = []
    hooks = ShutdownHooks()

    async def hook(word: str, seconds: float = 0.0) -> None:
        seen.append(word)
        await asyncio.sleep(seconds)

    async def broken() -> None:
        raise OSError

    hooks.add(lambda: hook("first"))
    hooks.add(broken)
    hooks.add(lambda: hook("hangs", 60))
    hooks.add(lambda: hook("last"))
    await hooks.run(0.05)
    assert seen == ["last", "hangs", "first"]
    await hooks.run(0.05)
    assert len(seen) == 3


async def test_many_revoked_jobs_in_a_row_do_not_recurse():
    """A thousand jobs that end as soon as their turn comes are passed over one by one."""
    slots = Slots(1, lambda: False)
    ended = []

    class EndsAtOnce:
        phase = Phase.WAITING
        waited = False
        cancellation = Cancellation()
        call = None

        def start(self) -> None:
            ended.append(self)
            slots.ended(self)

    jobs = [EndsAtOnce() for _ in range(2000)]
    slots.limit = 0
    for job in jobs:
        slots.admit(job)
    assert len(slots.waiting) == 2000
    jobs_waited = [job.waited for job in jobs]
    assert all(jobs_waited)
    for job in jobs:
        job.waited = False  # nobody revoked them; the check needs a request
    slots.resize(1)
    assert ended == jobs
    assert slots.idle.is_set()
