"""Resumes runs that wait for an event or for their children, and keeps early events for later waits.

An event is kept first, then handed over; a run is listed as waiting first, then pauses, then looks at what
is kept. So neither can miss the other, and a sweeper finds the run if a process dies in between. Events
belong to a user: only that user's runs wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.model import contents, ids, jsontext, validation
from mainstem_shared.model.actions import Action, Wait
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import children, resuming
from mainstem_shared.operations.performing import BoundTransition, Operations, nobody
from mainstem_shared.store import keys
from mainstem_shared.transitions import Waiting

R = TypeVar("R")

logger = logging.getLogger(__name__)

EVENT_LIMIT: Final = 64 * 1024
"""Largest payload of an event, in bytes of JSON: it becomes a decision of each run that waits for it."""

EventKey = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class EventRequest(BaseModel):
    """What a client sends as an event. The same `event_id` again is the same event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    payload: Any = None
    event_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class EventReceipt(BaseModel):
    """What became of an event: `woken` runs go on with it now."""

    model_config = ConfigDict(frozen=True)

    event_id: str
    woken: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One event that is kept."""

    event_id: str
    at_ms: int
    payload: Any


_KEY: Final[TypeAdapter[str]] = TypeAdapter(EventKey)


def parse_request(key: str, fields: Mapping[str, Any]) -> EventRequest:
    """Build an event from what a caller gave.

    Raises:
        InvalidRequest: it does not fit; says where.
    """
    try:
        _KEY.validate_python(key)
        return EventRequest.model_validate(jsontext.well_formed(dict(fields)))
    except ValidationError as error:
        raise validation.invalid_request(error) from error


async def send(
    operations: Operations,
    *,
    tenant: str,
    user_id: str,
    key: str,
    request: EventRequest,
) -> EventReceipt:
    """Keep an event, and wake the user's runs that wait for its key.

    Raises:
        InputTooLarge: the payload is over 64 KB.
        StoreUnavailable: kept or not; send it again with the same `event_id`.
    """
    data = jsontext.dumps(request.payload)
    if len(data) > EVENT_LIMIT:
        raise errors.InputTooLarge(what="event", size=len(data), limit=EVENT_LIMIT)
    try:
        jsontext.checked(data)
    except ValueError as error:
        raise errors.InvalidRequest(f"payload: no JSON that every reader takes: {error}") from error
    event_id = request.event_id or f"ev_{ids.token()}"
    listed = await transitions.keep_event(
        operations.store,
        keys.events(tenant, user_id, key),
        event_id=event_id,
        entry=b"%d %b" % (now_ms(), data),
        ttl_ms=int(operations.settings.event_lookback_s * 1000),
    )
    woken = [run_id for run_id in listed if await _woken(operations, run_id)]
    return EventReceipt(event_id=event_id, woken=sorted(woken))


async def _woken(operations: Operations, run_id: str) -> bool:
    """Wake one of several runs; one whose record is damaged keeps no other waiting."""
    try:
        return bool(await check(operations, run_id))
    except (*contents.UNREADABLE, errors.NewerVersion):
        noted = {"action": "waiting_run_unreadable", "run_id": run_id}
        logger.exception("a run that waits for an event cannot be read", extra=noted)
        return False


async def pause(operations: Operations, spec: Spec, action: Action, *, change: BoundTransition[R]) -> R:
    """Perform a run's pause, and look whether the event that it waits for has come; returns the answer."""
    if action.wait is None or action.wait.is_timed:
        return await operations.perform(change, notify=nobody)
    if action.wait.event is not None:
        await _watch(operations, spec, action, event=action.wait.event)
    answer = await operations.perform(change, notify=nobody)
    if isinstance(answer, transitions.Paused):
        await check(operations, spec.run_id)
    return answer


async def _watch(operations: Operations, spec: Spec, action: Action, *, event: str) -> None:
    """List a run as waiting for an event, before it pauses."""
    lives_ms = max(0, action.expires_ms - now_ms()) + operations.settings.live_ttl_ms
    awaited = keys.events(spec.tenant, spec.user_id, event)
    await transitions.enlist(operations.store, awaited.waiting, run_id=spec.run_id, ttl_ms=lives_ms)


async def check(operations: Operations, run_id: str) -> bool | None:
    """Wake a run whose event is there, or whose children are over; False: some of them are not yet."""
    seen = await transitions.read_action(operations.store, run_id, "")
    if isinstance(seen, transitions.Gone) or seen.status is not Status.REQUIRES_ACTION:
        return None
    action = seen.action
    if action is None or action.wait is None or action.wait.is_timed:
        return None
    if action.wait.event is None:
        return await _join(operations, seen, action, action.wait)
    events, waiting = keys.events(seen.spec.tenant, seen.spec.user_id, action.wait.event)
    found = _first(await operations.store.command("HGETALL", events), since_ms=action.wait.since_ms)
    if found is None:
        return None
    return await _wake(operations, seen, found, waiting=waiting)


async def ended(operations: Operations, spec: Spec) -> None:
    """Look whether a run that ended was what its parent waits for; a sweep looks again if this fails."""
    if spec.parent_run is None:
        return
    try:
        await check(operations, spec.parent_run)
    except errors.MainstemError as error:
        noted = {"action": "parent_not_told", "run_id": spec.run_id, "why": error.code}
        logger.warning("a parent was not told of its child's end", extra=noted)


async def _join(operations: Operations, seen: Waiting, action: Action, wait: Wait) -> bool:
    """Wake a run whose children are over, with what became of them."""
    if not await children.are_over(operations, wait.runs):
        return False
    decided = [
        {"id": wait.wait_id, "type": "joined", "value": await children.outcomes(operations, wait.runs)}
    ]
    answer = await resuming.wake(operations, seen, action, digest="joined", decided=decided)
    return isinstance(answer, transitions.Resolved)


async def _wake(operations: Operations, seen: Waiting, found: Kept, *, waiting: str) -> bool:
    action = seen.action
    assert action is not None
    assert action.wait is not None
    decided = [{"id": action.wait.wait_id, "type": "event", "value": found.payload, "text": found.event_id}]
    answer = await resuming.wake(operations, seen, action, digest=f"event:{found.event_id}", decided=decided)
    if isinstance(answer, transitions.Resolved):
        await operations.store.command("SREM", waiting, seen.spec.run_id)
    return isinstance(answer, transitions.Resolved)


def _first(flat: list[bytes], *, since_ms: int) -> Kept | None:
    return next((event for event in _parsed(flat) if event.at_ms >= since_ms), None)


def _parsed(flat: list[bytes]) -> list[Kept]:
    """Return the events of a hash, oldest first, without what is damaged: it would hold up all others."""
    kept: list[Kept] = []
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        at, _, payload = value.partition(b" ")
        try:
            event = Kept(event_id=name.decode(), at_ms=int(at), payload=jsontext.loads(payload))
        except ValueError:
            logger.exception("a kept event is damaged", extra={"action": "event_unreadable", "entry": name})
        else:
            kept.append(event)
    return sorted(kept, key=lambda event: (event.at_ms, event.event_id))
