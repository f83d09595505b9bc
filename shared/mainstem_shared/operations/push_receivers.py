"""Push receivers are webhooks that are told of a run in A2A's shape: they come and go while it lives.

They are among the targets of the run's callback, so whoever ends or pauses the run has them told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.model import callbacks, jsontext
from mainstem_shared.model.callbacks import Receiver
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.operations import callback_policy
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings

MOST: Final = 8
"""Receivers of one run."""
_TRIES: Final = 10


def allowed(settings: Settings) -> bool:
    """Tell whether the operator allows any webhooks that users name."""
    return bool(settings.callback_hosts and settings.webhook_secrets)


async def listed(operations: Operations, run_id: str, principal: Principal) -> list[Receiver]:
    """Return who is told of a run of the user's.

    Raises:
        NotFound: there is no such run.
    """
    targets = (await _read(operations, run_id, principal)).get("to", ())
    return [found for target in targets if (found := callbacks.receiver_of(target)) is not None]


async def put(operations: Operations, run_id: str, receiver: Receiver, principal: Principal) -> None:
    """Have somebody told of a run; another receiver of the same id is replaced.

    Raises:
        CallbackNotAllowed: the operator does not allow this address.
        InvalidRequest: it is none, or there are too many receivers.
        NotFound, RunNotActive: there is no such run, or it is over.
    """
    callback_policy.judge_webhook(operations.settings, receiver.target)

    def change(targets: list[str]) -> list[str]:
        others = [target for target in targets if not _is(target, receiver.id)]
        if sum(callbacks.receiver_of(target) is not None for target in others) >= MOST:
            raise errors.InvalidRequest(f"At most {MOST} receivers may be told of a task; delete one.")
        return [*others, receiver.target]

    await _change(operations, run_id, principal, change)


async def remove(operations: Operations, run_id: str, receiver_id: str, principal: Principal) -> None:
    """Tell a receiver no more.

    Raises:
        NotFound, RunNotActive: there is no such run, or it is over.
    """
    await _change(
        operations,
        run_id,
        principal,
        lambda targets: [target for target in targets if not _is(target, receiver_id)],
    )


def _is(target: str, receiver_id: str) -> bool:
    found = callbacks.receiver_of(target)
    return found is not None and found.id == receiver_id


async def _read(operations: Operations, run_id: str, principal: Principal) -> dict[str, Any]:
    """Return a run's callback, which is empty if nobody is told."""
    record = await transitions.find_fields(operations.store, run_id, Record.spec, Record.callback)
    if isinstance(record, transitions.Gone) or not principal.owns(record.spec):
        raise errors.NotFound
    return record.callback or {}


async def _change(
    operations: Operations, run_id: str, principal: Principal, change: Callable[[list[str]], list[str]]
) -> None:
    everyone = list(callback_policy.everyone(operations.settings))
    for _ in range(_TRIES):
        found = await _read(operations, run_id, principal)
        changed = change(list(found.get("to", ())))
        pauses = found.get("pauses") or any(callbacks.receiver_of(target) for target in changed)
        after = {"all": everyone, **found, "to": changed, "pauses": bool(pauses)}
        # Compared as it is stored: what was read from our JSON makes the same JSON again.
        before = jsontext.dumps(found) if found else b""
        done = await transitions.set_callback(
            operations.store, run_id, before=before, callback=jsontext.dumps(after)
        )
        if done is None:
            raise errors.RunNotActive(status="over")
        if done:
            return
    raise errors.StoreUnavailable("Who is told of this run kept changing; try again.")
