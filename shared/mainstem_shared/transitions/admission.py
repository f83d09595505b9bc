"""The transition `admit` decides which queued runs have a place in their queue's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

ADMIT: Final = Script("admit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A run that wants to be published. `user`: whom it is counted for; `share`: how much it counts.

    `had_turn`: it was admitted before, and paused or lost its worker since.
    """

    run_id: str
    user: str
    share: float = 1.0
    had_turn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What an `admit` decided: the runs that got a place, and how many wait before the wanted one.

    `ahead` is None if the wanted run has a place, or if there was none.
    """

    fresh: tuple[str, ...]
    ahead: int | None


async def admit(
    store: Store,
    queue: str,
    *,
    window: int,
    live_ttl_ms: int,
    wanted: Wanted | None = None,
    over: Sequence[str] = (),
) -> Admitted:
    """Give places of a queue's window to waiting runs, after those of the runs `over` became free."""
    run = wanted or Wanted(run_id="", user="")
    places = keys.admission(queue)
    _, fresh, ahead = await store.verb(
        ADMIT,
        list(places),
        [
            now_ms(),
            window,
            live_ttl_ms,
            run.run_id,
            run.user,
            run.share,
            jsontext.dumps(list(over)),
            int(run.had_turn),
        ],
    )
    names = tuple(raw.decode() for raw in fresh)
    return Admitted(fresh=names, ahead=None if ahead < 0 else ahead)
