"""A mailbox carries what others ask of a process: one durable stream per owner.

Lossless while the owner lives, and not needed once it is dead: then a sweeper acts on the record. The owner
notes how far it has read, so that a sender can tell what arrived from what only lies there.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

KEPT: Final = 10_000
"""Messages a mailbox keeps: a process reads within milliseconds; a full box means it is stuck."""
TTL_S: Final = 24 * 3600


class StopMessage(BaseModel):
    """Stop a run: the stop intent stands in its record already."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["stop"] = "stop"
    run_id: str
    reason: Reason


class InputMessage(BaseModel):
    """Users said something to a run: its record has it."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["input"] = "input"
    run_id: str


Message = Annotated[StopMessage | InputMessage, Field(discriminator="kind")]
MESSAGE: Final[TypeAdapter[StopMessage | InputMessage]] = TypeAdapter(Message)


async def post(store: Store, owner: str, message: StopMessage | InputMessage) -> Cursor:
    """Put a message into the mailbox of `owner`; returns its id, for `is_read`.

    Raises:
        StoreUnavailable: it may or may not be there; posting it again is harmless.
    """
    box = keys.mailbox(owner)
    posted, _ = await store.commands(
        ("XADD", box, "MAXLEN", "~", KEPT, "*", "m", message.model_dump_json()), ("EXPIRE", box, TTL_S)
    )
    return cursors.parse(posted)


async def is_read(store: Store, owner: str, message_id: Cursor) -> bool:
    """Tell whether `owner` has acted on a message. A dead, frozen or busy owner has not."""
    seen = await store.command("GET", keys.mail_read(owner))
    return seen is not None and cursors.parse(seen) >= message_id
