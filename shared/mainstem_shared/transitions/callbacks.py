"""Transitions of callbacks: `set_callback`, `note_attempt`, `redeliver` (make due again), `drop_callbacks`.

`finish` and `pause` record what is due. The deliveries of a run are in a hash of their own, which outlives
the run's record; each bucket has an index of them by when they are due.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from mainstem_shared.model import jsontext
from mainstem_shared.model.callbacks import LONGEST_PAUSE_MS, Attempts, DeliveryId
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

SET_CALLBACK: Final = Script("set_callback")
NOTE_ATTEMPT: Final = Script("note_attempt")
REDELIVER: Final = Script("redeliver")
DROP_CALLBACKS: Final = Script("drop_callbacks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a delivery is about, as the store has it."""

    delivery: DeliveryId
    target: str
    spec: bytes
    event: bytes
    attempts: Attempts


async def set_callback(store: Store, run_id: str, *, before: bytes, callback: bytes) -> bool | None:
    """Change who is told about a run; False if somebody else did meanwhile, None if it is over, or gone."""
    reply = await store.verb(SET_CALLBACK, [keys.run(run_id).record], [before, callback])
    return None if reply[0] == b"ended" else reply[0] == b"set"


async def note_attempt(
    store: Store, delivery: DeliveryId, *, attempts: Attempts | None = None, due_ms: int = 0
) -> bool:
    """Note a delivery, or (with `attempts`) when it is tried again; False if it is not open any more."""
    k = keys.run(delivery.run_id)
    state = b"" if attempts is None else attempts.model_dump_json().encode()
    reply = await store.verb(
        NOTE_ATTEMPT, [k.callbacks, k.callbacks_due], [delivery.field, str(delivery), state, due_ms]
    )
    return reply[0] == b"noted"


def given_up_from() -> int:
    """Return from which score on an index's entries are those that were given up."""
    return now_ms() + 2 * LONGEST_PAUSE_MS


async def redeliver(
    store: Store, run_id: str, *, epoch: int, spec: bytes, event: bytes, targets: Sequence[str]
) -> int:
    """Make the deliveries of an epoch's event due again; returns how many there are."""
    k = keys.run(run_id)
    reply = await store.verb(
        REDELIVER,
        [k.callbacks, k.callbacks_due],
        [now_ms(), run_id, epoch, spec, event, jsontext.dumps(list(targets))],
    )
    return int(reply[1])


async def drop_callbacks(store: Store, run_id: str) -> None:
    """Drop a run's deliveries."""
    k = keys.run(run_id)
    await store.verb(DROP_CALLBACKS, [k.callbacks, k.callbacks_due], [run_id])


async def read_due(store: Store, deliveries: Sequence[DeliveryId]) -> list[Due | None]:
    """Read deliveries, in their order; None for one that is not there (any more)."""
    found = await store.commands(
        *(
            ("HMGET", keys.run(one.run_id).callbacks, one.field, "spec", str(one.epoch), one.attempts_field)
            for one in deliveries
        ),
        large=True,
    )
    return [_due(one, *values) for one, values in zip(deliveries, found, strict=True)]


def _due(
    delivery: DeliveryId, target: bytes | None, spec: bytes | None, event: bytes | None, state: bytes | None
) -> Due | None:
    if target is None:
        return None
    try:
        attempts = Attempts() if state is None else Attempts.model_validate_json(state)
    except ValidationError:
        attempts = Attempts()  # damaged: they are counted anew
    return Due(
        delivery=delivery,
        target=target.decode(),
        spec=spec or b"",
        event=event or b"{}",
        attempts=attempts,
    )
