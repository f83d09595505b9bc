"""The Celery application of the pool's tests. Runs in real worker processes; configured by the environment.

Tasks and signal handlers write what happens into lists (`journal:<task id>`, `signals:<task id>`) on another
server than the broker, so that a frozen broker does not stop them.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import time
from typing import Any

import redis
from celery import Celery, bootsteps, current_task, group, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from mainstem_tasks.celery_support.async_task import AsyncTask, cancel_cause
from mainstem_workers.pool import PoolOptions

URL = os.environ["POOLAPP_URL"]

app = Celery("poolapp", task_cls=AsyncTask)
app.conf.update(
    broker_url=URL,
    result_backend=URL,
    task_ignore_result=False,
    worker_disable_prefetch=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_default_queue=os.environ.get("POOLAPP_QUEUE", "pool"),
    task_create_missing_queues=True,
    mainstem_pool=PoolOptions(
        grace_s=float(os.environ.get("POOLAPP_GRACE", "20")),
        cancel_grace_s=float(os.environ.get("POOLAPP_CANCEL_GRACE", "5")),
        hook_timeout_s=2,
        threads=4,
    ),
)

journal_client = redis.Redis.from_url(os.environ["POOLAPP_JOURNAL_URL"], decode_responses=True)
traced: contextvars.ContextVar[str | None] = contextvars.ContextVar("traced", default=None)


def note(task_id: str, word: str) -> None:
    journal_client.rpush(f"journal:{task_id}", word)


class Hooks(bootsteps.StartStopStep):
    """Registers shutdown hooks that tell the order, and one that fails."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012

    def start(self, worker: Any) -> None:
        if not hasattr(worker.pool, "add_shutdown_hook"):
            return  # another pool

        async def hook(word: str) -> None:
            assert asyncio.get_running_loop() is worker.pool.loop
            note(f"worker {app.conf.task_default_queue}", word)

        async def broken() -> None:
            raise OSError("a hook that fails")

        worker.pool.add_shutdown_hook(lambda: hook("first hook"))
        worker.pool.add_shutdown_hook(broken)
        worker.pool.add_shutdown_hook(lambda: hook("second hook"))
        worker.pool.run(self.tick())

    async def tick(self) -> None:
        """Measure the loop: the longest delay of a tick since it was last asked for."""
        self.ticker = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            Hooks.longest = max(Hooks.longest, time.monotonic() - before - 0.01)

    longest = 0.0


app.steps["worker"].add(Hooks)


@signals.task_prerun.connect
def on_prerun(task_id: str, **_: Any) -> None:
    traced.set(f"trace-{task_id}")
    journal_client.rpush(f"signals:{task_id}", "prerun")


def _listen(signal: Any, word: str) -> Any:
    def handler(sender: Any = None, **kwargs: Any) -> None:
        request = kwargs.get("request")
        task_id = kwargs.get("task_id") or (request.id if request is not None else sender.request.id)
        extra = f" terminated={kwargs['terminated']}" if "terminated" in kwargs else ""
        journal_client.rpush(f"signals:{task_id}", word + extra)

    signal.connect(handler, weak=False)
    return handler


for _signal, _word in (
    (signals.task_postrun, "postrun"),
    (signals.task_success, "success"),
    (signals.task_failure, "failure"),
    (signals.task_retry, "retry"),
    (signals.task_revoked, "revoked"),
):
    _listen(_signal, _word)


@signals.worker_process_init.connect
def on_process_init(**_: Any) -> None:
    journal_client.rpush("process-init", threading.current_thread().name)


@app.task(bind=True)
async def who(self: Any, pause: float = 0.0) -> list[Any]:
    await asyncio.sleep(pause)
    child = await asyncio.ensure_future(_child(self))
    await asyncio.sleep(pause)
    outer = current_task.request.id if current_task else None
    return [self.request.id, outer, traced.get(), *child, threading.current_thread().name]


async def _child(task: Any) -> list[Any]:
    await asyncio.sleep(0)
    return [task.request.id, traced.get()]


@app.task
async def noop(value: Any = None) -> Any:
    return value


@app.task
async def noop_after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.task(ignore_result=True)
async def ignored() -> None:
    pass


@app.task(bind=True)
def plain(self: Any, pause: float = 0.0) -> list[Any]:
    time.sleep(pause)
    return [self.request.id, current_task.request.id, threading.current_thread().name]


@app.task(bind=True)
async def nap(self: Any, seconds: float, cleanup: float = 0.0) -> str:
    note(self.request.id, "started")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note(self.request.id, f"cancelled {cancel_cause()}")
        raise
    except SoftTimeLimitExceeded:
        note(self.request.id, f"soft {cancel_cause()}")
        raise
    finally:
        if cleanup:
            await asyncio.sleep(cleanup)
            note(self.request.id, "cleaned")
    return "rested"


app.task(name="poolapp.late_nap", bind=True, acks_late=True)(nap._decorated_fun)


@app.task(bind=True)
async def stubborn(self: Any, seconds: float, end: str = "return") -> str:
    """Swallows its cancellation."""
    note(self.request.id, "started")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
        note(self.request.id, f"swallowed {cancel_cause()}")
        if end == "raise":
            raise ValueError("after the cancel") from None
    return "done anyway"


@app.task(bind=True)
async def soft_handler(self: Any) -> str:
    try:
        async with asyncio.timeout(30):
            await asyncio.sleep(20)
    except SoftTimeLimitExceeded:
        return f"handled {cancel_cause()}"
    return "not reached"


@app.task(bind=True)
async def soft_swallowing_child(self: Any) -> str:
    async def child() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            return "swallowed"
        return "slept"

    try:
        await asyncio.create_task(child())
    except SoftTimeLimitExceeded:
        return "handled"
    return "not reached"


@app.task(bind=True, max_retries=3)
async def flaky(self: Any, times: int, countdown: float = 0.1) -> int:
    await asyncio.sleep(0)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    return self.request.retries


@app.task(bind=True, autoretry_for=(ValueError,), retry_kwargs={"max_retries": 2, "countdown": 0.1})
async def auto_flaky(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise ValueError("again")
    return self.request.retries


@app.task
async def fails(how: str) -> None:
    await asyncio.sleep(0)
    if how == "value":
        raise ValueError("as asked")
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("as asked", requeue=False)
    if how == "exit":
        sys.exit(3)
    if how == "stray":
        raise asyncio.CancelledError
    if how == "childexit":
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(0.05)


@app.task
async def add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task(bind=True)
async def errback(self: Any, *args: Any) -> None:
    note("errback", str(getattr(args[0], "id", args[0])))


@app.task
async def grouped() -> str:
    """TaskGroup and timeouts work in a body."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0.01, number)) for number in range(5)]
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)
    except TimeoutError:
        return f"{sum(task.result() for task in tasks)} timeout"
    return "not reached"


@app.task(bind=True)
async def publisher(self: Any) -> str:
    """Publishes from the body, which must not happen on the loop."""
    return str(noop.apply_async((1,), ignore_result=True).id)


@app.task
def start_chord() -> str:
    return str((group(add.s(number, 1) for number in range(20)) | noop.s()).apply_async().id)


@app.task
def nested() -> Any:
    """A plain task that calls an async one directly: it runs on the background loop."""
    return add(1, 2)


@app.task
async def nested_async() -> Any:
    """An async body that calls another async task synchronously, in the same greenlet."""
    return add(3, 4)


@app.task
def busy(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if cancel_cause() is not None:
            return f"stopped {cancel_cause()}"
        time.sleep(0.01)
    return "worked"


@app.task
async def longest_gap() -> float:
    longest, Hooks.longest = Hooks.longest, 0.0
    return longest


@app.task
async def memory() -> int:
    with open("/proc/self/statm") as statm:  # noqa: ASYNC230, PTH123
        return int(statm.read().split()[1]) * 4096
