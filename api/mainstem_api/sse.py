"""Answers an EventSource from a view of any framework: the status, and the lines of the body.

204 tells an EventSource to stop: its run is over, and it has seen the end. 404 is an unknown run, or another
user's; 400 a cursor that no log can have. The first event is awaited before the status is known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain

from mainstem_api.client.async_runs import AsyncRuns, RunEvent
from mainstem_api.client.runs import Runs
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.model.principals import DEFAULT_TENANT

__all__ = ["astream", "stream"]


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
    events = runs.events(run_id, after, user_id=user_id, tenant=tenant)
    try:
        first = await anext(events, None)
    except errors.NotFound:
        return 404, _nothing()
    except errors.InvalidCursor:
        return 400, _nothing()
    return (204, _nothing()) if first is None else (200, _lines(first, events))


def stream(
    runs: Runs,
    run_id: str,
    after: str | None = None,
    *,
    user_id: str | None = None,
    tenant: str = DEFAULT_TENANT,
) -> tuple[int, Iterator[str]]:
    """Do the same for views that block."""
    events = iter(runs.events(run_id, after, user_id=user_id, tenant=tenant))
    try:
        first = next(events, None)
    except errors.NotFound:
        return 404, iter(())
    except errors.InvalidCursor:
        return 400, iter(())
    return (204, iter(())) if first is None else (200, map(_encoded, chain([first], events)))


async def _nothing() -> AsyncIterator[str]:
    for line in ():
        yield line


async def _lines(first: RunEvent, events: AsyncIterator[RunEvent]) -> AsyncIterator[str]:
    yield _encoded(first)
    async for event in events:
        yield _encoded(event)


def _encoded(event: RunEvent) -> str:
    return f"id: {event.cursor}\nevent: {event.type}\ndata: {jsontext.dumps(event.data).decode()}\n\n"
