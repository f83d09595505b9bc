"""Lists undelivered callbacks, redelivers them on request, and drops them with a user's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.model import callbacks, jsontext
from mainstem_shared.model.callbacks import DeliveryId, EventType
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations import callback_policy
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.callbacks import Due

MOST: Final = 10_000
"""Deliveries that are listed: more of them usually have one common cause."""
_BATCH: Final = 500
_ENDED: Final = (
    Record.spec, Record.epoch, Record.reason, Record.finished_ms, Record.error, Record.callback,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A delivery that was not made yet, or was given up."""

    delivery: DeliveryId
    target: str
    event: dict[str, Any]
    spec: Spec | None
    """None: it is damaged, and nobody can tell whose run it is."""
    attempts: callbacks.Attempts
    due_ms: int


async def find(store: Store, *, tenant: str | None = None, user_id: str | None = None) -> list[Undelivered]:
    """Return deliveries that are to be made or were given up, of a tenant and a user if they are named."""
    commands = (("ZRANGE", index, 0, MOST - 1, "WITHSCORES") for index in keys.CALLBACKS)
    listed: list[tuple[DeliveryId, int]] = []
    for flat in await store.commands(*commands, large=True):
        members = zip(flat[::2], flat[1::2], strict=True)
        parsed = ((callbacks.parse_delivery(member.decode()), int(float(at))) for member, at in members)
        listed += [(delivery, at) for delivery, at in parsed if delivery is not None]
    found: list[Undelivered] = []
    for first in range(0, min(len(listed), MOST), _BATCH):
        batch = listed[first : first + _BATCH]
        read = await transitions.read_due(store, [delivery for delivery, _ in batch])
        pairs = zip(read, batch, strict=True)
        found += [_undelivered(due, due_ms) for due, (_, due_ms) in pairs if due is not None]
    return [one for one in found if _is_of(one, tenant, user_id)]


async def count(store: Store, indexes: Sequence[str] = keys.CALLBACKS) -> dict[str, int]:
    """Return how many deliveries of these indexes wait, and how many were given up."""
    later = transitions.given_up_from()
    sizes = await store.commands(*(("ZCARD", index) for index in indexes))
    given_up = sum(await store.commands(*(("ZCOUNT", index, later, "+inf") for index in indexes)))
    return {"waiting": sum(sizes) - given_up, "given_up": given_up}


async def resend(operations: Operations, run_id: str, *, tenant: str | None = None) -> int:
    """Make a run's undelivered callbacks due again, or that of its end if none is left. Ids stay the same.

    Raises:
        NotFound: there is no such run, or it is another tenant's.
        Conflict: it is not over, or it has no callback.
    """
    store, deliveries = operations.store, 0
    stored = await store.command("HGETALL", keys.run(run_id).callbacks)
    fields = {name.decode(): value for name, value in zip(stored[::2], stored[1::2], strict=True)}
    epochs: dict[str, list[str]] = {}
    for name, value in fields.items():
        epoch, _, number = name.partition(".")
        if number.isdigit():
            epochs.setdefault(epoch, []).append(value.decode())
    if not epochs:
        return await _resend_end(operations, run_id, tenant)
    if tenant is not None and (spec := _spec(fields.get("spec", b""))) is not None and spec.tenant != tenant:
        raise errors.NotFound
    for epoch, targets in epochs.items():
        deliveries += await transitions.redeliver(
            store,
            run_id,
            epoch=int(epoch),
            spec=fields.get("spec", b""),
            event=fields.get(epoch, b"{}"),
            targets=targets,
        )
    operations.hints.add(keys.run(run_id).callbacks_due)
    return deliveries


async def _resend_end(operations: Operations, run_id: str, tenant: str | None) -> int:
    """Make the delivered callback of a run's end due again, by the run's record or its archived one."""
    store = operations.store
    record = await transitions.find_fields(store, run_id, Record.status, *_ENDED)
    if isinstance(record, transitions.Gone) or tenant not in (None, record.spec.tenant):
        raise errors.NotFound
    if not record.status.is_terminal:
        raise errors.Conflict("The run is not over: there is nothing to tell yet.")
    own = record.callback or {}
    everyone = callback_policy.everyone(operations.settings)
    targets = tuple(dict.fromkeys((*own.get("to", ()), *own.get("all", ()), *everyone)))
    if not targets:
        raise errors.Conflict("Nobody is to be told of this run: no callback, and no MAINSTEM_ON_RUN_END.")
    event: dict[str, Any] = {
        "type": EventType.ENDED,
        "at": record.finished_ms,
        "status": record.status,
        "reason": record.reason,
    }
    if record.error is not None:
        event["error"] = record.error.model_dump()
    deliveries = await transitions.redeliver(
        store,
        run_id,
        epoch=record.epoch,
        spec=record.spec.model_dump_json().encode(),
        event=jsontext.dumps(event),
        targets=targets,
    )
    operations.hints.add(keys.run(run_id).callbacks_due)
    return deliveries


async def drop_of_user(store: Store, *, tenant: str, user_id: str) -> int:
    """Drop the callbacks of a user's runs, however many wait in all; returns of how many runs."""
    sizes = await store.commands(*(("ZCARD", index) for index in keys.CALLBACKS))
    run_ids: set[str] = set()
    for index in (index for index, size in zip(keys.CALLBACKS, sizes, strict=True) if size):
        members = await store.command("ZRANGE", index, 0, -1, large=True)
        parsed = [callbacks.parse_delivery(member.decode()) for member in members]
        deliveries = [delivery for delivery in parsed if delivery is not None]
        for first in range(0, len(deliveries), _BATCH):
            read = await transitions.read_due(store, deliveries[first : first + _BATCH])
            run_ids |= {due.delivery.run_id for due in read if due and _is_whose(due, tenant, user_id)}
    for run_id in run_ids:
        await transitions.drop_callbacks(store, run_id)
    return len(run_ids)


def _is_whose(due: Due | None, tenant: str, user_id: str) -> bool:
    spec = None if due is None else _spec(due.spec)
    return spec is not None and (spec.tenant, spec.user_id) == (tenant, user_id)


def _undelivered(due: Due, due_ms: int) -> Undelivered:
    return Undelivered(
        delivery=due.delivery,
        target=callbacks.shown(due.target),
        event=_event(due.event),
        spec=_spec(due.spec),
        attempts=due.attempts,
        due_ms=due_ms,
    )


def _event(stored: bytes) -> dict[str, Any]:
    try:
        return jsontext.loads(stored)
    except ValueError:
        return {}  # damaged: the delivery's id says which run it is about


def _spec(stored: bytes) -> Spec | None:
    try:
        return Spec.model_validate_json(stored)
    except ValidationError:
        return None


def _is_of(one: Undelivered, tenant: str | None, user_id: str | None) -> bool:
    if one.spec is None:
        return tenant is None
    return tenant in (None, one.spec.tenant) and user_id in (None, one.spec.user_id)
