"""The transition `effect` notes a side effect of an engine: that it begins, and what came of it."""

from __future__ import annotations

from typing import Final

from mainstem_shared import errors
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.results import Control, Refused, refused

EFFECT: Final = Script("effect")
EFFECTS_LIMIT: Final = 10_000
"""Effects of one run: they are kept until it ends."""


async def effect(
    store: Store,
    control: Control,
    *,
    key: str,
    entry: bytes,
    replace: bool,
    live_ttl_ms: int,
    patience_s: float | None = None,
) -> bytes | Refused | None:
    """Note an effect; returns what was known of it before, unless that is `replace`d.

    Raises:
        EffectsFull: the run has as many as it may.
        Fenced: the run is gone.
    """
    k = keys.run(control.run_id)
    reply = await store.verb(
        EFFECT,
        [k.record, k.effects],
        [
            control.epoch, control.owner, control.nonce, key, entry, int(replace), live_ttl_ms, EFFECTS_LIMIT,
        ],
        patience_s=patience_s,
    )  # fmt: skip
    match reply[0]:
        case b"noted":
            return None
        case b"known":
            return reply[1]
        case b"full":
            raise errors.EffectsFull(limit=EFFECTS_LIMIT)
        case b"refused":
            return refused(reply)
        case _:
            raise errors.Fenced(run_id=control.run_id)
