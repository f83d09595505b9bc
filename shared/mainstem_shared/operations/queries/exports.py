"""Exports a user's data from store and archive: one JSON object per thread and per run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model.record import Record
from mainstem_shared.operations.queries import listings, threads
from mainstem_shared.store.client import Store


async def of_user(store: Store, *, tenant: str, user_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield a user's threads, the last active one first, then their runs, newest first, with their inputs.

    What is started meanwhile may be missing; what moves to the archive meanwhile is not.

    Raises:
        StoreUnavailable, ArchiveUnavailable: begin anew.
    """
    cursor: str | None = None
    while True:
        found, cursor = await threads.page(
            store, tenant=tenant, user_id=user_id, limit=listings.LONGEST_PAGE, cursor=cursor
        )
        for thread in found:
            described = thread.description.model_dump(mode="json")
            yield {"type": "thread", "thread_id": thread.thread_id, **described}
        if cursor is None:
            break
    query = listings.Query(tenant=tenant, user_id=user_id)
    while True:
        positions, cursor = await listings.positions(store, query, limit=listings.LONGEST_PAGE, cursor=cursor)
        for position in positions:
            if (line := await _run(store, position.run_id)) is not None:
                yield line
        if cursor is None:
            return


async def _run(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        run = await run_states.get_run(store, run_id)
    except errors.NotFound:
        return None  # deleted this very moment
    record = await transitions.find_fields(store, run_id, Record.run_input, Record.decisions)
    if isinstance(record, transitions.Gone):
        return None
    kept = {"input": record.run_input, "decisions": record.decisions or []}
    return {"type": "run", "run": run.model_dump(mode="json"), **kept}
