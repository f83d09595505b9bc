"""Starts a run: checks the request, takes a slot of the user's quota, performs the transition.

For `AsyncRuns`, the AG-UI adapter and the task `mainstem.submit`. It also aborts the run that is replaced.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from mainstem_shared import errors, guards, tracing, transitions
from mainstem_shared.coordination import outbox
from mainstem_shared.guards import Kind, Said
from mainstem_shared.model import digests, ids, jsontext, runs, validation
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Spec, StartRequest, WaitingFor
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import callback_policy, engine_catalogue, file_copies, quotas
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.performing import START, BoundTransition, Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

IDEMPOTENCY_KEY_LIMIT: Final = 255

_THREAD_ID: Final[TypeAdapter[str]] = TypeAdapter(runs.ThreadId)
_USER_ID: Final[TypeAdapter[str]] = TypeAdapter(runs.UserId)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAnswer:
    """What became of a start: a durable run, new or (`replayed`) that of the idempotency key's first use.

    `replaces`: the run that was asked to stop in favour of this one.
    """

    run_id: str
    replayed: bool = False
    waiting: WaitingFor | None = None
    replaces: str | None = None


def parse_request(fields: dict[str, Any]) -> StartRequest:
    """Build a request from what a caller gave. Half a surrogate pair in it becomes U+FFFD.

    Raises:
        InvalidRequest: it does not fit; says where.
    """
    try:
        return StartRequest.model_validate(jsontext.well_formed(fields))
    except ValidationError as error:
        raise validation.invalid_request(error) from error


@tracing.traced("mainstem.start", kind="PRODUCER")
async def start_run(
    operations: Operations,
    request: StartRequest,
    *,
    principal: Principal,
    thread_id: str,
    idempotency_key: str | None = None,
    run_id: str | None = None,
    trigger: str = "user",
    private_threads: bool = False,
    parent_run: str | None = None,
) -> StartAnswer:
    """Make a run durable and offer it to workers. An unavailable broker delays it and is no error.

    A given `run_id` (it must be of this thread) makes the call repeatable: the same caller, starting it
    again, is answered the same. With `private_threads`, a thread belongs to the user whose runs it has.

    Raises:
        NotFound: the thread is another user's.
        InvalidRequest: also as InputTooLarge, UnknownEngine, InvalidInput; CallbackNotAllowed.
        TooManyRuns: the user has as many runs at work as may be.
        ThreadBusy, ThreadQueueFull: `run_id` holds the thread; the request does not wait, or too many do.
        IdempotencyKeyReused: the key stands for another request.
        Conflict: a run with this id was started by somebody else.
        ArchiveUnavailable: only the archive knows whose the thread is.
        StoreUnavailable: not started, or (a lost reply) started and found by its idempotency key.
    """
    store, settings = operations.store, operations.settings
    await store.learn_time()
    spec = _spec(request, settings, principal=principal, thread_id=thread_id, run_id=run_id, trigger=trigger)
    spec = spec.model_copy(update={"parent_run": parent_run})
    run_input = await _stored(operations, request, spec)
    idempotency = _idempotency(principal, thread_id, request, idempotency_key)
    if not await _is_replay(store, spec, idempotency):
        usual = await _check(operations, request, spec, size=len(run_input))
        spec = spec.model_copy(update={"priority": request.priority or usual})
        await _take_slot(store, settings, spec, request, idempotency)
    start = START.of(
        spec,
        run_input,
        nonce=run_id or ids.nonce(),
        if_active=request.if_active,
        live_ttl_ms=settings.live_ttl_ms,
        thread_ttl_ms=settings.thread_ttl_ms,
        idempotency=idempotency,
        private=_private(store) if private_threads else "",
        callback=callback_policy.stored(settings, request.callback),
    )
    publish = functools.partial(_publish, operations, spec)
    answer = await operations.perform(start, notify=publish)
    if isinstance(answer, transitions.Unknown):
        answer = await operations.perform(await _with_known_owner(store, spec, start), notify=publish)
    if not isinstance(answer, transitions.Started):
        return _refused(spec, answer)
    log.info("Run started", extra={"action": "start_run", "run_id": spec.run_id, "engine": spec.engine})
    replaces = answer.active if request.if_active == "replace" and answer.active != spec.run_id else None
    await _stop_replaced(operations, answer.superseded, replaces)
    return StartAnswer(run_id=spec.run_id, waiting=answer.waiting, replaces=replaces)


def _private(store: Store) -> Literal["private", "archived"]:
    return "private" if store.archive is None else "archived"


async def _with_known_owner(store: Store, spec: Spec, start: BoundTransition[T]) -> BoundTransition[T]:
    """Return the start for a thread whose runs have all left the store, and that is not another user's.

    Raises:
        NotFound: it is.
        ArchiveUnavailable: nobody can tell.
    """
    owner = await store.archive.threads.owner(spec.tenant, spec.thread_id) if store.archive else None
    if owner not in (None, spec.user_id):
        raise errors.NotFound("No such thread.")
    return start.bound(private="private")


async def _check(
    operations: Operations, request: StartRequest, spec: Spec, *, size: int
) -> runs.Priority | None:
    """Make sure that the request may be served, before anything is taken for it; returns its usual class."""
    callback_policy.targets_of(operations.settings, request.callback)
    usual = await engine_catalogue.check(operations.store, request.engine, request.input, size=size)
    guards.check(operations.settings.input_guards, Said(kind=Kind.INPUT, value=request.input, spec=spec))
    return usual


async def _stored(operations: Operations, request: StartRequest, spec: Spec) -> bytes:
    """Return the input as the record has it: files beside it. Those of a start that fails are collected."""
    given = await file_copies.with_own_files(operations, request.input, spec)
    stored, _ = await operations.files.taken_out(given, spec.run_id)
    return _encode("input", stored, runs.INPUT_LIMIT)


async def _publish(operations: Operations, spec: Spec, answer: object) -> None:
    if isinstance(answer, transitions.Started) and answer.waiting is WaitingFor.WORKER:
        await operations.publish(spec, parents=outbox.parent_tasks_of(spec))


def _spec(
    request: StartRequest,
    settings: Settings,
    *,
    principal: Principal,
    thread_id: str,
    run_id: str | None,
    trigger: str,
) -> Spec:
    try:
        _THREAD_ID.validate_python(thread_id)
        _USER_ID.validate_python(principal.user_id)
        _USER_ID.validate_python(principal.tenant)
    except ValidationError as error:
        raise validation.invalid_request(error) from error
    metadata = _encode("metadata", request.metadata, runs.METADATA_LIMIT)
    if not _is_strict(metadata):
        raise errors.InvalidRequest("metadata: text with half of a surrogate pair.")
    return Spec(
        run_id=run_id or ids.run_id(principal.tenant, thread_id, ids.uuid7()),
        thread_id=thread_id,
        user_id=principal.user_id,
        tenant=principal.tenant,
        engine=request.engine,
        metadata=request.metadata,
        created_ms=now_ms(),
        max_duration_s=min(request.max_duration_s or settings.max_run_s, settings.max_run_s),
        on_worker_lost=request.on_worker_lost,
        trigger=trigger,
        parent=request.parent,
        message_id=request.message_id,
        traceparent=tracing.traceparent(),
        budget=request.budget,
        priority=request.priority,
    )


def _encode(what: str, value: dict[str, Any], limit: int) -> bytes:
    try:
        data = jsontext.dumps(value)
        if len(data) > limit:
            raise errors.InputTooLarge(what=what, size=len(data), limit=limit)
        jsontext.checked(data)  # workers, readers and records will have to read it, too
    except ValueError as error:
        words = f"{what}: no JSON that every reader takes (at most {jsontext.DEPTH} levels): {error}"
        raise errors.InvalidRequest(words) from error
    return data


def _is_strict(data: bytes) -> bool:
    """Tell whether the strict decoder, which reads records, accepts this JSON."""
    try:
        from_json(data)
    except ValueError:
        return False
    return True


def _idempotency(
    principal: Principal, thread_id: str, request: StartRequest, key: str | None
) -> tuple[str, str] | None:
    """Return the digests of the key's scope and of the request, as it is with all defaults filled in."""
    if key is None:
        return None
    if not 0 < len(key) <= IDEMPOTENCY_KEY_LIMIT:
        raise errors.InvalidRequest(f"An Idempotency-Key has 1 to {IDEMPOTENCY_KEY_LIMIT} characters.")
    scope = [principal.tenant, principal.user_id, thread_id, key]
    return digests.of_json(scope), digests.of_json(request.model_dump())


async def _is_replay(store: Store, spec: Spec, idempotency: tuple[str, str] | None) -> bool:
    """Tell whether the key was used already; the start verb says the last word on it.

    A replay is answered even if the engine is no longer offered: the first start was right when it was made.
    """
    if idempotency is None:
        return False
    key = keys.idempotency(spec.run_id, idempotency[0])
    return bool(await store.command("EXISTS", key))


async def _take_slot(
    store: Store,
    settings: Settings,
    spec: Spec,
    request: StartRequest,
    idempotency: tuple[str, str] | None,
) -> None:
    """Take one of the user's slots, unless another answer than "too many" is the better one."""
    try:
        await quotas.take(store, settings, spec, replacing=request.if_active == "replace")
    except errors.TooManyRuns:
        if await _is_replay(store, spec, idempotency):
            return  # the same request, at the same time, has the slot
        active = await _holder(store, spec) if request.if_active == "reject" else None
        if active and await _is_same_users(store, active, spec):
            raise errors.ThreadBusy(run_id=active) from None
        raise


async def _holder(store: Store, spec: Spec) -> str | None:
    """Return the run that holds the thread."""
    active = await store.command("HGET", keys.run(spec.run_id).thread, "active")
    if active is None:
        return None
    seen = await transitions.peek(store, active.decode())
    return None if isinstance(seen, transitions.Gone) or seen.status.is_terminal else active.decode()


async def _is_same_users(store: Store, run_id: str, spec: Spec) -> bool:
    theirs = await transitions.read_fields(store, run_id, Record.spec)
    return not isinstance(theirs, transitions.Gone) and theirs.spec.user_id == spec.user_id


async def _stop_replaced(operations: Operations, *run_ids: str | None) -> None:
    """Carry out what replaced runs' records ask of them; a sweeper does what fails here."""
    for run_id in filter(None, run_ids):
        try:
            await Aborter(operations=operations).pursue(run_id, reason=Reason.REPLACED)
        except errors.NotFound:
            continue
        except errors.StoreUnavailable:
            log.warning("A replaced run was not told", extra={"action": "tell_replaced", "run_id": run_id})


def _refused(
    spec: Spec,
    answer: transitions.Exists
    | transitions.Replayed
    | transitions.Busy
    | transitions.Gone
    | transitions.Unknown,
) -> StartAnswer:
    if isinstance(answer, transitions.Exists):
        raise errors.Conflict("A run with this id exists already.", run_id=spec.run_id)
    if isinstance(answer, transitions.Gone | transitions.Unknown):
        raise errors.NotFound("No such thread.")
    if isinstance(answer, transitions.Busy):
        raise (errors.ThreadQueueFull if answer.queue_full else errors.ThreadBusy)(run_id=answer.active)
    if not answer.same_body:
        raise errors.IdempotencyKeyReused(run_id=answer.run_id)
    return StartAnswer(run_id=answer.run_id, replayed=True)
