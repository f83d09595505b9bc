"""Limits what one user may ask of one gateway: requests per minute, open event streams.

Counted in the process, without a round trip: with n gateways a user has up to n times as much. Both limits
are off unless they are set; they protect the deployment from a client that runs wild, not from an attack.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings

MINUTE_S: Final = 60.0
FORGET_AT: Final = 10_000
"""So many users are remembered before those are forgotten who have all their requests left."""

_User = tuple[str, str]


class Limits:
    """Admits requests and streams. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._requests = settings.max_requests_per_minute
        self._max_streams = settings.max_streams_per_user
        self._full_at: dict[_User, float] = {}
        self._streams: Counter[_User] = Counter()

    def admit(self, principal: Principal) -> None:
        """Count a request: a minute's worth may come at once, then they come back one by one.

        Raises:
            TooManyRequests: its `retry_after_s` says when there is room for the next one.
        """
        if not self._requests:
            return
        # A bucket is a time: when it will be full again. Each request moves it by one request's share.
        user, now, share = _user(principal), time.monotonic(), MINUTE_S / self._requests
        full_at = max(self._full_at.get(user, 0.0), now) + share
        if full_at - now > MINUTE_S + share / 1000:
            raise errors.TooManyRequests(retry_after_s=math.ceil(full_at - now - MINUTE_S))
        if len(self._full_at) >= FORGET_AT:
            self._full_at = {user: at for user, at in self._full_at.items() if at > now}
        self._full_at[user] = full_at

    @contextmanager
    def stream(self, principal: Principal) -> Generator[None]:
        """Hold one of the user's streams.

        Raises:
            TooManyStreams: they are all open.
        """
        user = _user(principal)
        self.check_streams(principal)
        self._streams[user] += 1
        try:
            yield
        finally:
            self._streams[user] -= 1
            if not self._streams[user]:
                del self._streams[user]

    def check_streams(self, principal: Principal) -> None:
        """Make sure that there is room for one more stream.

        Raises:
            TooManyStreams: there is none.
        """
        if self._max_streams and self._streams[_user(principal)] >= self._max_streams:
            raise errors.TooManyStreams


def _user(principal: Principal) -> _User:
    return principal.tenant, principal.user_id
