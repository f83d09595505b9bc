"""Async tasks without a worker: called directly and eagerly, on the process's background loop."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from celery import Celery

from mainstem_tasks.celery_support.async_task import AsyncTask, StrayCancelError
from mainstem_tasks.celery_support.background_loop import LoopThread, background


@pytest.fixture
def app():
    yield Celery("unit", task_cls=AsyncTask, set_as_current=False, broker="memory://")
    background().stop()


def test_direct_call(app):
    """A direct call runs the body on the background loop and returns its result."""

    @app.task
    async def where(word: str) -> tuple[str, str]:
        await asyncio.sleep(0)
        return word, threading.current_thread().name

    assert where("here") == ("here", "mainstem-loop")


def test_eager_request(app):
    """Eagerly, `self.request` is the call's own, in child tasks too."""

    @app.task(bind=True)
    async def who(self) -> list[str]:
        async def child() -> str:
            return self.request.id

        return [self.request.id, await asyncio.create_task(child())]

    result = who.apply(task_id="eager-id")
    assert result.get() == ["eager-id", "eager-id"]


def test_class_based(app):
    """Tasks written as classes are bridged as well."""

    class Doubler(AsyncTask):
        name = "unit.doubler"

        async def run(self, number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

    task = app.register_task(Doubler())
    assert task.is_async
    assert task(4) == 8


def test_plain_bodies_stay_plain(app):
    """A plain body runs in the caller's thread."""

    @app.task
    def plain() -> str:
        return threading.current_thread().name

    assert not plain.is_async
    assert plain() == threading.current_thread().name


def test_stray_cancel(app):
    """A CancelledError nobody caused does not leave the task as such."""

    @app.task
    async def stray() -> None:
        raise asyncio.CancelledError

    with pytest.raises(StrayCancelError):
        stray()


def test_pydantic_is_refused(app):
    """What would not work is refused when the task is defined."""
    with pytest.raises(TypeError, match="pydantic"):

        @app.task(pydantic=True, lazy=False, shared=False)  # later apps would make it, too
        async def typed(number: int) -> None: ...


def test_synchronous_call_on_the_loop_is_refused(app):
    """A synchronous call from the loop that would have to run it fails instead of hanging."""

    @app.task
    async def inner() -> None: ...

    @app.task
    async def outer() -> None:
        inner()

    with pytest.raises(RuntimeError, match="await it"):
        outer()


def test_a_forked_child_gets_its_own_loop():
    """After a fork the child starts a loop of its own instead of waiting for its parent's."""
    assert background().run(asyncio.sleep(0, "parent")) == "parent"
    pid = os.fork()
    if pid == 0:
        ok = background().run(asyncio.sleep(0, "child")) == "child"
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert background().run(asyncio.sleep(0, "still")) == "still"
    background().stop()


def test_loop_starts_again_after_a_stop():
    """A stopped loop thread starts anew on the next use."""
    thread = LoopThread("unit-loop")
    first = thread.loop
    thread.stop()
    assert thread.loop is not first
    thread.stop()
