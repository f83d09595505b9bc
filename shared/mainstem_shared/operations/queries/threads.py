"""Lists a user's threads by their last activity, and changes what people say about threads and runs.

A thread is listed where its newest run stands among the user's: no index is kept for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import messages
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Run
from mainstem_shared.operations.queries import listings
from mainstem_shared.operations.queries.listings import Position
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import descriptions

TITLE_LENGTH: Final = 120
"""Characters of what was said that stand in for a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread: what people say about it, and its user's newest run on it."""

    thread_id: str
    description: Description
    run: Run


async def page(
    store: Store, *, tenant: str, user_id: str, limit: int, cursor: str | None = None, search: str = ""
) -> tuple[list[Thread], str | None]:
    """Return a user's threads, the last active one first, and the cursor after them.

    `search`: only those whose title has these characters, whatever their case.

    Raises:
        InvalidCursor, InvalidRequest: as of `listings.page`.
    """
    query = listings.Query(tenant=tenant, user_id=user_id)
    found: list[Thread] = []
    scanned = 0
    while scanned < listings.SCAN_LIMIT:
        batch, cursor = await listings.positions(store, query, limit=limit, cursor=cursor)
        scanned += max(len(batch), 1)
        for position in batch:
            thread = await _thread(store, query, position)
            if thread is not None and search.casefold() in (thread.description.title or "").casefold():
                found.append(thread)
                if len(found) == limit:
                    return found, str(position)
        if cursor is None:
            return found, None
    return found, cursor


async def _thread(store: Store, query: listings.Query, position: Position) -> Thread | None:
    """Return the thread whose newest run of this user stands here; None if it has a newer one."""
    run_keys = keys.run(position.run_id)
    newest, values = await store.commands(
        ("ZREVRANGE", run_keys.thread_runs, 0, 9), ("HMGET", run_keys.thread, *descriptions.NAMES)
    )
    ids = [raw.decode() for raw in newest]
    scores = await store.commands(*(("ZSCORE", query.index, run_id) for run_id in ids)) if ids else []
    mine = next((run_id for run_id, at in zip(ids, scores, strict=True) if at is not None), None)
    if mine != position.run_id:
        return None
    try:
        run = await run_states.get_run(store, position.run_id)
    except errors.NotFound:
        return None
    described = descriptions.parsed(values)
    if described.title is None:
        title = run.title or await _said(store, position.run_id) or run.thread_id
        described = described.model_copy(update={"title": title})
    return Thread(thread_id=run.thread_id, description=described, run=run)


async def _said(store: Store, run_id: str) -> str:
    record = await transitions.read_fields(store, run_id, Record.run_input)
    if isinstance(record, transitions.Gone):
        return ""
    spoken = messages.said(record.run_input, is_first=False)
    text = "".join(part.get("text", "") for turn in spoken for part in turn.parts)
    return " ".join(text.split())[:TITLE_LENGTH]


async def describe_thread(
    store: Store, thread_id: str, change: Description, *, tenant: str, user_id: str | None
) -> Description:
    """Change what is said about a thread of this user (None: of anybody).

    Raises:
        NotFound: there is no such thread, or it has no run of theirs.
    """
    query = listings.Query(tenant=tenant, thread_id=thread_id, user_id=user_id)
    theirs, _ = await listings.positions(store, query, limit=1)
    if not theirs:
        raise errors.NotFound("No such thread.")
    return _there(await transitions.describe(store, descriptions.of_thread(tenant, thread_id), change=change))


async def describe_run(
    store: Store, run_id: str, change: Description, *, tenant: str, user_id: str | None
) -> Run:
    """Change what is said about a run of this user (None: of anybody); returns it as of then.

    Raises:
        NotFound: there is no such run, or it is not theirs.
    """
    await run_states.check_owner(store, run_id, tenant=tenant, user_id=user_id)
    _there(await transitions.describe(store, descriptions.of_run(run_id), change=change))
    return await run_states.get_run(store, run_id)


def _there(answer: Description | transitions.Gone) -> Description:
    if isinstance(answer, transitions.Gone):
        raise errors.NotFound
    return answer
