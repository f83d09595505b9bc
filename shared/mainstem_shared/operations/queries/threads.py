"""Lists a user's threads by last activity; changes titles, labels and metadata of threads and runs.

A thread is listed where its newest run stands among the user's: no index is kept for it.
"""

from __future__ import annotations

import asyncio
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import messages
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Run, Spec
from mainstem_shared.operations.queries import listings, ready_pages
from mainstem_shared.operations.queries.listings import Position
from mainstem_shared.settings import UNARCHIVED_MS
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import descriptions

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive

TITLE_LENGTH: Final = 120
"""Characters of what was said that stand in for a title."""
_SEARCHED_AT_ONCE: Final = 100
_LONG: Final = 4
"""Runs of a batch to each thread that begins in it, from where on more runs are looked at in one go."""
_NOWHERE: Final = Position(0, "")


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

    `search`: only those whose title has these characters, whatever their case, and however
    their accents are composed.

    Raises:
        InvalidCursor, InvalidRequest: as of `listings.page`.
    """
    query = listings.Query(tenant=tenant, user_id=user_id)
    found: list[Thread] = []
    newest: dict[str, Position] = {}
    scanned, sought = 0, _comparable(search)
    at_once = max(limit, _SEARCHED_AT_ONCE) if search and limit > 0 else limit
    while scanned < listings.SCAN_LIMIT:
        batch, cursor = await listings.positions(store, query, limit=at_once, cursor=cursor)
        scanned += max(len(batch), 1)
        threads = await _threads(store, query, batch, newest)
        for position, thread in threads:
            if sought in _comparable(thread.description.title or ""):
                found.append(thread)
                if len(found) == limit:
                    return found, str(position)
        if cursor is None:
            return found, None
        if len(threads) * _LONG < len(batch):
            at_once = listings.LONGEST_PAGE
    return found, cursor


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


async def _threads(
    store: Store, query: listings.Query, batch: list[Position], newest: dict[str, Position]
) -> list[tuple[Position, Thread]]:
    """Return the threads whose newest run of this user stands in this batch, and where.

    `newest` is what is known of threads from batches before, and of these from now on.
    """
    records = await transitions.find_many(store, [at.run_id for at in batch], Record.spec)
    specs = {
        at: known[0]
        for at, record in zip(batch, records, strict=True)
        if not isinstance(record, transitions.Gone)
        and (known := listings.spec_and_status(at.run_id, record)) is not None
    }
    unknown = {spec.run_id: spec.thread_id for spec in specs.values() if spec.thread_id not in newest}
    if unknown:
        newest.update(await _newest(store, query, unknown))
    mine = [at for at, spec in specs.items() if newest[spec.thread_id] == at]
    said = await _descriptions(store, [specs[at] for at in mine])
    threads = await asyncio.gather(*(_thread(store, at.run_id, said[at.run_id]) for at in mine))
    return [(at, thread) for at, thread in zip(mine, threads, strict=True) if thread is not None]


async def _newest(store: Store, query: listings.Query, threads: dict[str, str]) -> dict[str, Position]:
    """Return where the user's newest run of each thread stands; `threads` are named by runs of them."""
    some_run = {thread_id: run_id for run_id, thread_id in threads.items()}
    commands = [
        ("ZREVRANGE", keys.run(run_id).thread_runs, 0, 9, "WITHSCORES") for run_id in some_run.values()
    ]
    listed = [listings.positions_of(flat) for flat in await store.commands(*commands, large=True)]
    ids = [entry.run_id for entries in listed for entry in entries]
    scores = await store.commands(*(("ZSCORE", query.index, run_id) for run_id in ids), large=True)
    theirs = {run_id for run_id, score in zip(ids, scores, strict=True) if score is not None}
    found = {
        thread_id: max((entry for entry in entries if entry.run_id in theirs), default=_NOWHERE)
        for thread_id, entries in zip(some_run, listed, strict=True)
    }
    if store.archive is not None and query.user_id is not None:  # after the store: runs move this way
        kept = await store.archive.threads.newest(
            tenant=query.tenant, user_id=query.user_id, thread_ids=list(some_run)
        )
        for thread_id, (at, run_id) in kept.items():
            found[thread_id] = max(found[thread_id], Position(at, run_id))
    return found


async def _descriptions(store: Store, runs: list[Spec]) -> dict[str, Description]:
    """Return what is said about these runs' threads, by run: the archive knows, or else the store."""
    commands = (("HMGET", keys.run(run.run_id).thread, *descriptions.NAMES) for run in runs)
    found = await store.commands(*commands, large=True)
    said = {run.run_id: values for run, values in zip(runs, found, strict=True)}
    if store.archive is not None and runs:
        kept = await store.archive.threads.described(runs[0].tenant, [run.thread_id for run in runs])
        said.update({run.run_id: kept[run.thread_id] for run in runs if run.thread_id in kept})
    return {run_id: descriptions.parsed(values) for run_id, values in said.items()}


async def _thread(store: Store, run_id: str, described: Description) -> Thread | None:
    try:
        run = await run_states.get_run(store, run_id)
    except errors.NotFound:
        return None
    if described.title is None:
        title = run.title or await _said(store, run.run_id) or run.thread_id
        described = described.model_copy(update={"title": title})
    return Thread(thread_id=run.thread_id, description=described, run=run)


async def _said(store: Store, run_id: str) -> str:
    record = await transitions.find_fields(store, run_id, Record.run_input)
    if isinstance(record, transitions.Gone):
        return ""
    spoken = messages.said(record.run_input, is_first=False)
    text = "".join(part.get("text", "") for turn in spoken for part in turn.parts)
    return " ".join(text.split())[:TITLE_LENGTH]


async def description(store: Store, tenant: str, thread_id: str) -> Description:
    """Return what people say about a thread: the archive knows, or else the store."""
    key = keys.thread(tenant, thread_id)
    values: list[bytes | None] = await store.command("HMGET", key, *descriptions.NAMES)
    if store.archive is not None:
        kept = await store.archive.threads.described(tenant, [thread_id])
        values = kept.get(thread_id, values)
    return descriptions.parsed(values)


async def describe_thread(
    store: Store, thread_id: str, change: Description, *, tenant: str, user_id: str | None
) -> Description:
    """Change what is said about a thread of this user (None: of anybody).

    With an archive, that has it: people may change what they say for as long as the thread has runs.

    Raises:
        NotFound: there is no such thread, or it has no run of theirs.
    """
    query = listings.Query(tenant=tenant, thread_id=thread_id, user_id=user_id)
    theirs, _ = await listings.positions(store, query, limit=1)
    if not theirs:
        raise errors.NotFound("No such thread.")
    if store.archive is None:
        target = descriptions.of_thread(tenant, thread_id)
        return _there(await transitions.describe(store, target, change=change))
    return await _describe_archived(store.archive, tenant, thread_id, change, born_ms=theirs[0].created_ms)


async def _describe_archived(
    archive: Archive, tenant: str, thread_id: str, change: Description, *, born_ms: int
) -> Description:
    """Change what the archive keeps of a thread, some run of which was created then."""
    if not await archive.threads.describe(tenant, thread_id, descriptions.changed(change), born_ms=born_ms):
        raise errors.NotFound("No such thread.")
    said = await archive.threads.described(tenant, [thread_id])
    return descriptions.parsed(said.get(thread_id, (None,) * len(descriptions.NAMES)))


async def describe_run(
    store: Store, run_id: str, change: Description, *, tenant: str, user_id: str | None
) -> Run:
    """Change what is said about a run of this user (None: of anybody); returns it as of then.

    Raises:
        NotFound: there is no such run, or it is not theirs.
    """
    await run_states.check_owner(store, run_id, tenant=tenant, user_id=user_id)
    again = None if store.archive is None else (run_id, UNARCHIVED_MS)
    answer = await transitions.describe(store, descriptions.of_run(run_id), change=change, again=again)
    if isinstance(answer, transitions.Gone) and store.archive is not None:
        changes = descriptions.changed(change)
        if not await store.archive.describe(run_id, changes, ready=ready_pages.ready_of):
            raise errors.NotFound
    else:
        _there(answer)
    return await run_states.get_run(store, run_id)


def _there(answer: Description | transitions.Gone) -> Description:
    if isinstance(answer, transitions.Gone):
        raise errors.NotFound
    return answer
