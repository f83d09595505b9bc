"""Transitions of accounts, which bound the cost of provider calls: reserve, settle; `read_account` reads one.

An account is a hash: `nanos` and `tokens` were spent, `held_nanos` and `held_tokens` are reserved for the
calls in its fields `call:<id>`. Its other fields are counters, named by whoever settles. Money is in whole
billionths of a dollar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mainstem_shared.model import jsontext
from mainstem_shared.store.client import Script, Store

RESERVE: Final = Script("reserve")
SETTLE: Final = Script("settle")
_CALL: Final = "call:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """An account has no room for a call: what is spent in it and reserved."""

    nanos: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What an account holds for a call under way."""

    day: str
    nanos: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account as of now."""

    nanos: int = 0
    tokens: int = 0
    held_nanos: int = 0
    held_tokens: int = 0
    calls: Mapping[str, Reservation] = field(default_factory=dict[str, Reservation])
    sums: Mapping[str, int] = field(default_factory=dict[str, int])


async def reserve(
    store: Store,
    account: str,
    *,
    call_id: str,
    day: str,
    nanos: int,
    tokens: int,
    limit_nanos: int | None,
    limit_tokens: int | None,
    ttl_ms: int,
    patience_s: float | None = None,
) -> Exceeded | None:
    """Reserve what a call may cost; None if it is reserved, also by an earlier attempt."""
    limits = ["" if limit is None else limit for limit in (limit_nanos, limit_tokens)]
    reply = await store.verb(
        RESERVE, [account], [call_id, day, nanos, tokens, *limits, ttl_ms], patience_s=patience_s
    )
    if reply[0] == b"reserved":
        return None
    return Exceeded(nanos=int(reply[1]), tokens=int(reply[2]))


async def settle(
    store: Store,
    account: str,
    *,
    call_id: str,
    nanos: int | None,
    tokens: int | None,
    sums: Mapping[str, int] | None = None,
    patience_s: float | None = None,
) -> bool:
    """Replace a call's reservation by what it cost (None: as reserved); False if there is none."""
    cost = ["" if amount is None else amount for amount in (nanos, tokens)]
    reply = await store.verb(
        SETTLE, [account], [call_id, *cost, jsontext.dumps(dict(sums or {}))], patience_s=patience_s
    )
    return reply[0] == b"settled"


async def read_account(store: Store, account: str, *, patience_s: float | None = None) -> Account:
    """Read an account; an empty one if there is none."""
    reply: dict[bytes, bytes] | list[bytes] = await store.command(
        "HGETALL", account, patience_s=patience_s, large=True
    )
    # redis-py makes a dictionary of the reply, the shared connection leaves it flat.
    members = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    fields = {name.decode(): value.decode() for name, value in members.items()}
    numbers = {name: int(fields.pop(name, 0)) for name in ("nanos", "tokens", "held_nanos", "held_tokens")}
    calls = {
        name.removeprefix(_CALL): _reservation(fields.pop(name))
        for name in [name for name in fields if name.startswith(_CALL)]
    }
    return Account(**numbers, calls=calls, sums={name: int(value) for name, value in fields.items()})


def _reservation(text: str) -> Reservation:
    day, nanos, tokens = text.split()
    return Reservation(day=day, nanos=int(nanos), tokens=int(tokens))
