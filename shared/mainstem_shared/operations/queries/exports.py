"""Exports a user's data from store and archive: a JSON object for each thread and run, and for the rest."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec, rfc3339
from mainstem_shared.model.usage import decimal_text
from mainstem_shared.operations import undelivered_callbacks, uploads, usage_days
from mainstem_shared.operations.queries import listings, threads
from mainstem_shared.operations.spending import DaySpending
from mainstem_shared.store.client import Store

DAYS: Final = 3660
"""Days of usage that are looked back on."""
_BESIDE: Final = (Record.run_input, Record.decisions, Record.callback)


async def of_user(store: Store, *, tenant: str, user_id: str) -> AsyncIterator[dict[str, Any]]:
    """Yield a user's threads, the last active one first, then their runs, newest first, with their inputs.

    Behind a run stands what its engine keeps on the thread, if that run changed it last. At the end stand the
    callbacks that are not delivered, uploads, and the days on which something was used.

    What is started meanwhile may be missing; what moves to the archive meanwhile is not.

    Raises:
        StoreUnavailable, ArchiveUnavailable: begin anew.
    """
    async for line in _threads(store, tenant, user_id):
        yield line
    async for line in _runs(store, tenant, user_id):
        yield line
    for undelivered in await undelivered_callbacks.find(store, tenant=tenant, user_id=user_id):
        yield _callback(undelivered)
    for upload in await uploads.listed(store, Principal(user_id=user_id, tenant=tenant)):
        yield _upload(upload)
    for day in await usage_days.by_day(store, tenant=tenant, user_id=user_id, days=DAYS):
        if day.calls:
            yield _day(day)


async def _threads(store: Store, tenant: str, user_id: str) -> AsyncIterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        found, cursor = await threads.page(
            store, tenant=tenant, user_id=user_id, limit=listings.LONGEST_PAGE, cursor=cursor
        )
        for thread in found:
            described = thread.description.model_dump(mode="json")
            yield {"type": "thread", "thread_id": thread.thread_id, **described}
        if cursor is None:
            return


async def _runs(store: Store, tenant: str, user_id: str) -> AsyncIterator[dict[str, Any]]:
    cursor: str | None = None
    query = listings.Query(tenant=tenant, user_id=user_id)
    while True:
        positions, cursor = await listings.positions(store, query, limit=listings.LONGEST_PAGE, cursor=cursor)
        for position in positions:
            if (line := await _run(store, position.run_id)) is not None:
                yield line
                if kept := await transitions.left_by(store, position.run_id, engine=line["run"]["engine"]):
                    yield _memory(line, kept)
        if cursor is None:
            return


async def _run(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        run = await run_states.get_run(store, run_id)
    except errors.NotFound:
        return None  # deleted this very moment
    record = await transitions.find_fields(store, run_id, Record.spec, *_BESIDE)
    if isinstance(record, transitions.Gone):
        return None
    kept = {"input": record.run_input, "decisions": record.decisions or [], **_place(record.spec)}
    told = (record.callback or {}).get("to")
    called = {"callback": told} if told else {}
    return {"type": "run", "run": run.model_dump(mode="json"), **kept, **called}


def _place(spec: Spec) -> dict[str, Any]:
    """Return where a run stands in its conversation, as its start said."""
    return {"message_id": spec.message_id, "parent": spec.parent}


def _memory(line: dict[str, Any], kept: dict[str, bytes]) -> dict[str, Any]:
    about = {name: line["run"][name] for name in ("thread_id", "engine")}
    return {
        "type": "memory",
        **about,
        "values": {key: base64.b64encode(value).decode() for key, value in kept.items()},
    }


def _callback(undelivered: undelivered_callbacks.Undelivered) -> dict[str, Any]:
    return {
        "type": "callback",
        "event_id": undelivered.delivery.event_id,
        "run_id": undelivered.delivery.run_id,
        "target": undelivered.target,
        "event": undelivered.event,
        "attempts": undelivered.attempts.model_dump(mode="json"),
        "due_at": rfc3339(undelivered.due_ms),
    }


def _upload(upload: uploads.Upload) -> dict[str, Any]:
    times = {"created_at": rfc3339(upload.created_ms), "expires_at": rfc3339(upload.expires_ms)}
    return {"type": "upload", **upload.model_dump(exclude={"created_ms", "expires_ms"}), **times}


def _day(day: DaySpending) -> dict[str, Any]:
    models = [
        {"model": one.model, "calls": one.calls, "tokens": one.tokens, "cost_usd": decimal_text(one.cost_usd)}
        for one in day.models
    ]
    sums = {"calls": day.calls, "tokens": day.tokens, "cost_usd": decimal_text(day.cost_usd)}
    return {"type": "usage", "day": day.day, **sums, "models": models}
