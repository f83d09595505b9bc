"""Answers a request when its run ends; white space before the JSON keeps the connection alive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mainstem_api.gateway.adapters.translator import Translator
from mainstem_api.gateway.sse import until_disconnected
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model.cursors import Cursor


async def follow_to_end(gateway: Gateway, words: Translator, run_id: str, cursor: Cursor) -> None:
    """Follow a run from `cursor` until its translator has reached the end.

    Raises:
        StoreUnavailable: this gateway stops first.
    """
    words.opening()
    if words.resting:
        words.rest()
    if words.over:
        return
    async with gateway.tailer.subscribe(run_id, after=cursor) as subscription:
        async for frames in subscription:
            words.take(frames)
            if words.resting:
                words.rest()
            if words.over:
                return
    raise errors.StoreUnavailable("This gateway stops serving; ask another one.")


class DeferredResponse(Response):
    """Answers at the end of a run: the status and white space are sent at once, the body then."""

    def __init__(
        self,
        following: asyncio.Task[None],
        answer: Callable[[], Response],
        heartbeat_s: float,
        on_left: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Wait for `following`; `on_left` is called if the client disconnects first."""
        super().__init__()
        self._on_left = on_left
        self._following = following
        self._answer = answer
        self._heartbeat_s = heartbeat_s

    @classmethod
    async def of(
        cls,
        following: asyncio.Task[None],
        answer: Callable[[], Response],
        heartbeat_s: float,
        on_left: Callable[[], Awaitable[object]] | None = None,
    ) -> Response | Self:
        """Return the answer itself if it is known within a heartbeat, with its own status.

        Raises:
            StoreUnavailable: this gateway stops first.
        """
        try:
            await asyncio.wait_for(asyncio.shield(following), heartbeat_s)
        except TimeoutError:
            return cls(following, answer, heartbeat_s, on_left)
        except asyncio.CancelledError:
            following.cancel()
            raise
        return answer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(until_disconnected(receive))
        try:
            while not self._following.done() and not gone.done():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.wait(
                    {self._following, gone}, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            gone.cancel()
            if not self._following.done():
                self._following.cancel()
        if not self._following.done() or self._following.cancelled():
            if self._on_left is not None:
                await self._on_left()
            return  # the client is gone
        if self._following.exception() is None:  # else a reset: no last chunk
            await send({"type": "http.response.body", "body": self._answer().body})
