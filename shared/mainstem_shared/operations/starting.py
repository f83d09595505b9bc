"""Starts a run: checks, index entries, the start verb, the message; for `AsyncRuns` and `mainstem.submit`.

A run and the indexes that list it lie in different slots. The truth is the run's record. Order: index entries
first, then the record. A crash in between leaves entries of a run that never came to be: sweepers drop them
from ACTIVE, listings from the others. The other order could leave a run that nobody looks after.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from mainstem_shared import errors, guards, transitions
from mainstem_shared.coordination import outbox
from mainstem_shared.coordination.outbox import Publisher
from mainstem_shared.guards import Kind, Said
from mainstem_shared.model import digests, ids, jsontext, runs, validation
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason, Spec, StartRequest, WaitingFor
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import engine_catalogue, quotas
from mainstem_shared.operations.aborting import LOOK_MS, Aborter
from mainstem_shared.operations.ending import Finaliser
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

log = logging.getLogger(__name__)

FIRST_LOOK_MS: Final = 5000
"""When a sweeper first looks at a new run: long after a healthy start is through with publishing."""
STALE: Final = 10
"""How many of a user's oldest entries a start looks at: more than it adds, so that lists stay short."""
IDEMPOTENCY_KEY_LIMIT: Final = 255

_THREAD_ID: Final[TypeAdapter[str]] = TypeAdapter(runs.ThreadId)
_USER_ID: Final[TypeAdapter[str]] = TypeAdapter(runs.UserId)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a start: a durable run, new or (`replayed`) that of the idempotency key's first use.

    `replaces`: the run that was asked to stop in favour of this one.
    """

    run_id: str
    replayed: bool = False
    waiting: WaitingFor | None = None
    replaces: str | None = None


def parse_request(fields: dict[str, Any]) -> StartRequest:
    """Build a request from what a caller gave.

    Raises:
        InvalidRequest: it does not fit; says where.
    """
    try:
        return StartRequest.model_validate(fields)
    except ValidationError as error:
        raise validation.invalid_request(error) from error


async def start_run(
    store: Store,
    publisher: Publisher,
    *,
    settings: Settings,
    principal: Principal,
    thread_id: str,
    request: StartRequest,
    idempotency_key: str | None = None,
    run_id: str | None = None,
    trigger: str = "user",
    private_threads: bool = False,
) -> Outcome:
    """Make a run durable and offer it to workers. An unavailable broker delays it and is no error.

    A given `run_id` (it must be of this thread) makes the call repeatable: the same caller, starting it
    again, is answered the same. With `private_threads`, a thread belongs to the user whose runs it has.

    Raises:
        NotFound: the thread is another user's.
        InvalidRequest: also as InputTooLarge, UnknownEngine, InvalidInput.
        TooManyRuns: the user has as many runs at work as may be.
        ThreadBusy: `run_id` holds the thread, and the request does not want to wait.
        ThreadQueueFull: too many wait already.
        IdempotencyKeyReused: the key stands for another request.
        Conflict: a run with this id was started by somebody else.
        StoreUnavailable: not started, or (a lost reply) started and found by its idempotency key.
    """
    run_input = _encode("input", request.input, runs.INPUT_LIMIT)
    spec = _spec(
        request, settings=settings, principal=principal, thread_id=thread_id, run_id=run_id, trigger=trigger
    )
    idempotency = _idempotency(principal, thread_id, request, idempotency_key)
    if not await _is_replay(store, spec, idempotency):
        await engine_catalogue.check(store, request.engine, request.input, size=len(run_input))
        guards.check(settings.input_guards, Said(kind=Kind.INPUT, value=request.input, spec=spec))
        await _take_slot(store, settings, spec, request, idempotency)
    thread_ttl_ms = settings.thread_ttl_ms
    await _index(store, spec, ttl_ms=thread_ttl_ms)
    if request.if_active == "replace":
        await _have_holder_looked_at(store, spec)
    answer = await transitions.start(
        store,
        spec,
        run_input,
        nonce=run_id or ids.nonce(),
        if_active=request.if_active,
        live_ttl_ms=settings.live_ttl_ms,
        thread_ttl_ms=thread_ttl_ms,
        idempotency=idempotency,
        private=private_threads,
    )
    if not isinstance(answer, transitions.Started):
        return await _refused(store, spec, answer)
    await _publish(store, publisher, spec, answer)
    replaces = answer.active if request.if_active == "replace" and answer.active != spec.run_id else None
    finaliser = Finaliser(store=store, settings=settings, publisher=publisher)
    for replaced in filter(None, (answer.superseded, replaces)):
        await _stop_replaced(finaliser, replaced)
    return Outcome(run_id=spec.run_id, waiting=answer.waiting, replaces=replaces)


async def _publish(store: Store, publisher: Publisher, spec: Spec, started: transitions.Started) -> None:
    if started.waiting is WaitingFor.WORKER:
        await outbox.deliver(
            store,
            publisher,
            run_id=spec.run_id,
            user_id=spec.user_id,
            engine=spec.engine,
            descent=outbox.descent_of(spec),
        )
    log.info("Run started", extra={"action": "start_run", "run_id": spec.run_id, "engine": spec.engine})


def _spec(
    request: StartRequest,
    *,
    settings: Settings,
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
    return bool(await store.patiently(lambda: store.client.exists(key)))


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
    active = await store.patiently(lambda: store.client.hget(keys.run(spec.run_id).thread, "active"))
    if active is None:
        return None
    seen = await transitions.peek(store, active.decode())
    return None if isinstance(seen, transitions.Gone) or seen.status.is_terminal else active.decode()


async def _is_same_users(store: Store, run_id: str, spec: Spec) -> bool:
    theirs = await store.patiently(lambda: store.client.hget(keys.run(run_id).record, "spec"))
    return theirs is not None and Spec.model_validate_json(theirs).user_id == spec.user_id


async def _index(store: Store, spec: Spec, *, ttl_ms: int) -> None:
    mine = keys.user_runs(spec.tenant, spec.user_id)
    async with store.client.pipeline(transaction=False) as pipe:

        async def write() -> None:
            pipe.zadd(keys.ACTIVE, {spec.run_id: spec.created_ms + FIRST_LOOK_MS}, nx=True)
            pipe.zadd(keys.RECENT, {spec.run_id: spec.created_ms}, nx=True)
            pipe.zadd(mine, {spec.run_id: spec.created_ms}, nx=True)
            pipe.pexpire(mine, ttl_ms, nx=True)
            pipe.pexpire(mine, ttl_ms, gt=True)  # one that waits for a human for longer keeps its list alive
            pipe.zrangebyscore(mine, "-inf", spec.created_ms - ttl_ms, start=0, num=STALE)
            return (await pipe.execute())[-1]

        stale = await store.patiently(write)
    if stale:
        await _drop_expired(store, mine, stale)


async def _drop_expired(store: Store, index: str, listed: list[bytes]) -> None:
    """Take runs off a list that are not there any more: who never stops starting would fill it for ever."""
    async with store.client.pipeline(transaction=False) as pipe:

        async def look() -> list[int]:
            for raw in listed:
                pipe.exists(keys.run(raw.decode()).record)
            return await pipe.execute()

        there = await store.patiently(look)
    gone = [raw for raw, exists in zip(listed, there, strict=True) if not exists]
    if gone:
        await store.patiently(lambda: store.client.zrem(index, *gone))


async def _unindex(store: Store, spec: Spec) -> None:
    """Remove the entries of a run that never came to be; if that fails, sweepers and listings will."""
    async with store.client.pipeline(transaction=False) as pipe:

        async def remove() -> None:
            mine = (spec.tenant, spec.user_id)
            for index in (keys.ACTIVE, keys.RECENT, keys.user_runs(*mine), keys.user_slots(*mine)):
                pipe.zrem(index, spec.run_id)
            await pipe.execute()

        try:
            await store.patiently(remove, patience_s=0)
        except errors.StoreUnavailable:
            log.warning("Index entries stay until swept", extra={"action": "unindex", "run_id": spec.run_id})


async def _have_holder_looked_at(store: Store, spec: Spec) -> None:
    """Move a sweeper's look up before `start` asks a thread's holder to stop: a crash may come in between."""
    if active := await _holder(store, spec):
        look = {active: now_ms() + LOOK_MS}
        await store.patiently(lambda: store.client.zadd(keys.ACTIVE, look, xx=True, lt=True))


async def _stop_replaced(finaliser: Finaliser, run_id: str) -> None:
    """Carry out what a replaced run's record asks of it; a sweeper does what fails here."""
    try:
        await Aborter(finaliser=finaliser).pursue(run_id, reason=Reason.REPLACED)
    except errors.NotFound:
        return
    except errors.StoreUnavailable:
        log.warning("A replaced run was not told", extra={"action": "tell_replaced", "run_id": run_id})


async def _refused(
    store: Store,
    spec: Spec,
    answer: transitions.Exists | transitions.Replayed | transitions.Busy | transitions.Gone,
) -> Outcome:
    if isinstance(answer, transitions.Exists):  # the entries belong to the run that does exist
        raise errors.Conflict("A run with this id exists already.", run_id=spec.run_id)
    await _unindex(store, spec)
    if isinstance(answer, transitions.Gone):
        raise errors.NotFound("No such thread.")
    if isinstance(answer, transitions.Busy):
        raise (errors.ThreadQueueFull if answer.queue_full else errors.ThreadBusy)(run_id=answer.active)
    if not answer.same_body:
        raise errors.IdempotencyKeyReused(run_id=answer.run_id)
    return Outcome(run_id=answer.run_id, replayed=True)
