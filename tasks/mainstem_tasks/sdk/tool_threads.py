"""Runs plain `def` tools in threads: a thread of its own for each call, a bounded number at once.

A thread cannot be stopped. Whoever waited for it goes on without it: its result is dropped, it writes nothing
into the run, and being a daemon it does not keep the process from ending. Its side effects may still come.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from mainstem_tasks.celery_support.exception_words import described

THREADS: Final = 64
"""Threads of tools at once, in each event loop; more calls wait. One that never ends keeps its place."""

_places: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = (
    weakref.WeakKeyDictionary()
)


async def run_in_thread(function: Callable[[], Any]) -> Any:
    """Return what the function returns. Cancelled, this returns at once and the thread goes on by itself.

    Raises:
        RuntimeError: the function tried to end the thread, as `sys.exit` does.
        Exception: whatever it raises.
    """
    loop = asyncio.get_running_loop()
    places = _places.setdefault(loop, asyncio.Semaphore(THREADS))
    await places.acquire()
    done: asyncio.Future[Any] = loop.create_future()

    def complete(result: Any, failure: Exception | None) -> None:
        places.release()
        if done.done():
            return  # nobody waits any more
        if failure is None:
            done.set_result(result)
        else:
            done.set_exception(failure)

    def body() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - carried over to the loop
            failure = error
            if isinstance(error, StopIteration):  # a future cannot carry it
                failure = RuntimeError(f"the tool raised {described(error)}")
        except BaseException as error:  # noqa: BLE001 - it would end this thread, and nobody would hear of it
            failure = RuntimeError(f"the tool raised {described(error)}")
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(complete, result, failure)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(body,), name="mainstem-tool", daemon=True).start()
    return await done
