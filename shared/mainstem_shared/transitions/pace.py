"""Transitions of a provider's pace, which the fleet shares: draw, correct, shut.

A pace is a hash: `requests` and `tokens` are clocks that each draw puts forward, `closed_until` is what the
provider said last, `closures` counts how often it said so, and `since` the draws since then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mainstem_shared.model.time import now_ms
from mainstem_shared.store.client import Script, Store

DRAW: Final = Script("draw")
CORRECT: Final = Script("correct")
SHUT: Final = Script("shut")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A pace's key, and its limits; None: there is none."""

    key: str
    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """When a call may be made. `closures`: what the next draw of the same call is told."""

    closures: str
    wait_ms: int
    closed: bool = False
    """The provider wants to be left alone for longer than a call may wait: nothing was drawn."""


async def draw(
    store: Store, pace: Pace, *, tokens: int, known: str = "", patience_s: float | None = None
) -> Drawn:
    """Draw a call from a pace. `known`: the closures of its last draw, if the time that it gave has come.

    Repeating it draws again: what a lost reply drew is not used, and nothing else comes of it.
    """
    reply = await store.verb(
        DRAW,
        [pace.key],
        [now_ms(), known, _limit(pace.requests), _limit(pace.tokens), tokens],
        patience_s=patience_s,
    )
    return Drawn(closures=reply[1].decode(), wait_ms=int(reply[2]), closed=reply[0] == b"closed")


async def correct(store: Store, pace: Pace, *, known: str, requests: int = 0, tokens: int = 0) -> bool:
    """Correct what a call drew, in one attempt: a second one would count. False if it was shut since then."""
    reply = await store.verb(
        CORRECT,
        [pace.key],
        [now_ms(), known, _limit(pace.requests), _limit(pace.tokens), requests, tokens],
        patience_s=0,
    )
    return reply[0] == b"corrected"


async def shut(store: Store, pace: Pace, *, for_ms: int, patience_s: float | None = None) -> None:
    """Shut a pace for as long as the provider said."""
    now = now_ms()
    await store.verb(SHUT, [pace.key], [now, now + for_ms], patience_s=patience_s)


def _limit(limit: int | None) -> str | int:
    return "" if limit is None else limit
