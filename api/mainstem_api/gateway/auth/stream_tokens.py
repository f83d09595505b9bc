"""Stream tokens authorise an `EventSource`, which cannot send headers, by a query parameter.

A token opens one run's event stream for one user, for a quarter of an hour. All gateways of a deployment
sign with one secret, which the first of them puts into the store.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt

from mainstem_shared import errors
from mainstem_shared.model import runs
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

PARAMETER: Final = "token"
"""The query parameter; access control takes it out before anybody could log the address."""
SECRET_BYTES: Final = 32
REREAD_S: Final = 60.0
"""How soon gateways agree again after the store lost the secret, or somebody replaced it."""
_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "mainstem:events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token, and when it stops opening streams."""

    token: str
    expires_at: datetime


class StreamTokens:
    """Issues and checks stream tokens."""

    def __init__(self, store: Store, *, lifetime_s: float) -> None:
        self._store = store
        self._lifetime_s = lifetime_s
        self._secret: bytes | None = None
        self._read_at = 0.0

    async def issue(self, principal: Principal, run_id: str) -> Issued:
        """Return a token for one run's events. Whether the user may read them is up to the caller."""
        expires = int(now_ms() / 1000 + self._lifetime_s)
        claims = {
            "aud": _AUDIENCE,
            "exp": expires,
            "run": run_id,
            "sub": principal.user_id,
            "tenant": principal.tenant,
            "admin": principal.is_admin,
        }
        token = jwt.encode(claims, await self._key(), algorithm=_ALGORITHM)
        return Issued(token=token, expires_at=runs.at_ms(expires * 1000))

    async def check(self, token: str, run_id: str) -> Principal:
        """Return whom a token was issued to.

        Raises:
            NotAuthenticated: it is not for this run, too old, or none of ours.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._key(),
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                options={"require": ["exp", "aud", "sub", "run", "tenant"], "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise errors.NotAuthenticated("The stream token is not valid.") from None
        if claims["exp"] <= now_ms() / 1000:  # another gateway's "now" is the same: the store's
            raise errors.NotAuthenticated("The stream token expired; get a new one.")
        if claims["run"] != run_id:
            raise errors.NotAuthenticated("The stream token is not valid.")
        return Principal(user_id=claims["sub"], tenant=claims["tenant"], is_admin=claims.get("admin") is True)

    async def _key(self) -> bytes:
        now = time.monotonic()
        if self._secret is None or now - self._read_at > REREAD_S:
            # A store that lost the secret gets the one back that tokens are out with.
            wanted = self._secret or secrets.token_bytes(SECRET_BYTES)
            await self._store.command("SET", keys.STREAM_SECRET, wanted, "NX")
            self._secret = await self._store.command("GET", keys.STREAM_SECRET)
            self._read_at = now
            if self._secret is None:
                raise errors.StoreUnavailable
        return self._secret
