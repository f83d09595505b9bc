"""Answers an EventSource from a view of any framework: the status, and the lines of the body.

204 tells an EventSource to stop: its run is over, and it has seen the end. 404 is an unknown run, or another
user's; 400 a cursor that no log can have. While a run says nothing there is a comment every HEARTBEAT_S, so
that no proxy takes the connection for dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Final

from mainstem_api.client import runs as blocking
from mainstem_api.client.async_runs import AsyncRuns, RunEvent
from mainstem_api.client.runs import Runs
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.model.principals import DEFAULT_TENANT

__all__ = ["astream", "stream"]

HEARTBEAT_S: Final = 15.0
"""As the gateway's: common proxies close what is silent for a minute."""
_HEARTBEAT: Final = ": heartbeat\n\n"
_Events = AsyncGenerator[RunEvent, None]


async def astream(
    runs: AsyncRuns,
    run_id: str,
    after: str | None = None,
    *,
    user_id: str | None = None,
    tenant: str = DEFAULT_TENANT,
) -> tuple[int, AsyncIterator[str]]:
    """Return status and lines for a run's events after a cursor, which `Last-Event-ID` has.

    Raises:
        StoreUnavailable: answer 503; an EventSource that is answered so must be opened anew.
    """
    return await _answer(lambda: runs.events(run_id, after, user_id=user_id, tenant=tenant))


def stream(
    runs: Runs,
    run_id: str,
    after: str | None = None,
    *,
    user_id: str | None = None,
    tenant: str = DEFAULT_TENANT,
) -> tuple[int, Iterator[str]]:
    """Do the same for views that block."""
    behind = blocking.behind(runs)
    answer = _answer(lambda: behind.events(run_id, after, user_id=user_id, tenant=tenant))
    status, lines = blocking.wait(answer)
    return status, blocking.iterated(lines)


async def _answer(begin: Callable[[], _Events]) -> tuple[int, AsyncGenerator[str, None]]:
    events = begin()
    try:
        first = await asyncio.wait_for(_next(events), HEARTBEAT_S)
    except TimeoutError:
        # There is such a run, and it says nothing. The wait has ended the generator; nothing of it was told.
        return 200, _lines(None, begin())
    except errors.NotFound:
        return 404, _nothing()
    except errors.InvalidCursor:
        return 400, _nothing()
    return (204, _nothing()) if first is None else (200, _lines(first, events))


async def _nothing() -> AsyncGenerator[str, None]:
    for line in ():
        yield line


async def _lines(first: RunEvent | None, events: _Events) -> AsyncGenerator[str, None]:
    yield _HEARTBEAT if first is None else _encoded(first)
    waiting: asyncio.Task[RunEvent | None] | None = None
    try:
        while True:
            waiting = asyncio.create_task(_next(events))
            while not (await asyncio.wait({waiting}, timeout=HEARTBEAT_S))[0]:
                yield _HEARTBEAT
            if (event := waiting.result()) is None:
                return
            yield _encoded(event)
    finally:
        if waiting is not None and not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await events.aclose()


async def _next(events: _Events) -> RunEvent | None:
    return await anext(events, None)


def _encoded(event: RunEvent) -> str:
    return f"id: {event.cursor}\nevent: {event.type}\ndata: {jsontext.dumps(event.data).decode()}\n\n"
