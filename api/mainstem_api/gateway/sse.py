"""Streams a run's events as an HTTP response that is reset, never ended, while the run goes on.

Pure ASGI instead of Starlette's `StreamingResponse`, which ends cleanly whatever happened: clients take a
clean end for the end of the run. Under uvicorn a callable that returns without its last body chunk closes the
connection in mid-body, which every client reads as a break.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mainstem_api.gateway.metrics import Metrics
from mainstem_api.gateway.middleware.http_protocol import CONNECTION
from mainstem_api.gateway.middleware.http_protocol import Protocol as Connection
from mainstem_api.gateway.middleware.request_metrics import UNLAYERED_SEND
from mainstem_api.gateway.outgoing import PIECE, Outgoing, UnreadError
from mainstem_shared import errors
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.eventlog.reading.subscriptions import End, Subscription
from mainstem_shared.model.events import Type
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Spec

logger = logging.getLogger(__name__)

HEARTBEAT: Final = b": hb\n\n"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


class Encoder(Protocol):
    """How a protocol encodes a run's events, for one client; `adapters.translator` has the base of most."""

    headers: Sequence[tuple[bytes, bytes]]
    """Response headers beside those of every event stream."""
    over: bool
    """Nothing more comes: the response ends."""

    @property
    def resting(self) -> bool:
        """Whether the response ends here, with `rest`, if nothing more is to be read as of now."""
        ...

    def opening(self) -> bytes:
        """Return what stands before the first event."""
        ...

    def take(self, frames: Sequence[Frame]) -> bytes:
        """Return how events are encoded."""
        ...

    def rest(self) -> bytes:
        """Return the last words of a run that waits for a human."""
        ...


class NativeEncoder:
    """Our own protocol: frames as they are."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    resting = False

    def __init__(self, spec: Spec) -> None:
        del spec
        self.over = False

    def opening(self) -> bytes:
        return b""

    def take(self, frames: Sequence[Frame]) -> bytes:
        self.over = frames[-1].type == Type.FINISHED
        return frames[0].wire if len(frames) == 1 else b"".join([frame.wire for frame in frames])

    def rest(self) -> bytes:
        return b""


class EventStream(Response):
    """Follows a run for one client. Errors before the first byte become problem documents."""

    def __init__(
        self,
        subscription: AbstractAsyncContextManager[Subscription],
        *,
        principal: Principal,
        heartbeat_s: float,
        metrics: Metrics,
        outgoing: Outgoing,
        max_age_s: float = 0,
        encoder: Callable[[Spec], Encoder] | None = None,
        on_left: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Follow the run of `subscription`; `encoder` makes what encodes it, by default our own events.

        With a `max_age_s` it is reset at about that age: for clients that reconnect where they were.
        `on_left` is called if the client disconnects before the end; not if this gateway breaks it off.
        """
        super().__init__()
        self._subscription = subscription
        self._principal = principal
        self._heartbeat_s = heartbeat_s
        self._metrics = metrics
        self._max_age_s = max_age_s
        self._outgoing = outgoing
        self._connection: Connection | None = None
        self._words = encoder or NativeEncoder
        self._on_left = on_left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._subscription as subscription:
            if not self._principal.may_read(subscription.spec):
                raise errors.NotFound
            if subscription.end is End.FINISHED:  # the reader has it all: 204 makes an EventSource stop
                await Response(status_code=204)(scope, receive, send)
                return
            encoder = self._words(subscription.spec)
            headers = [*_HEADERS, *encoder.headers]
            listener = asyncio.create_task(until_disconnected(receive))
            listener.add_done_callback(lambda _: subscription.close(End.CLOSED))
            self._connection = scope.get(CONNECTION)
            if self._connection is not None:
                self._connection.on_half_close(subscription.nudge)
            self._metrics.stream_began()
            ageing = self._limit_age(subscription)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                # In a task of its own: a wake-up climbs through every coroutine that awaits it, and the app's
                # layers around this one were a sixth of what an event costs.
                end = await asyncio.create_task(
                    self._stream(subscription, encoder, scope.get(UNLAYERED_SEND, send))
                )
                left = end == End.CLOSED and listener.done()
            finally:
                self._metrics.stream_ended()
                listener.cancel()
                if ageing is not None:
                    ageing.cancel()
                await asyncio.gather(listener, return_exceptions=True)
            if left and self._on_left is not None:
                await self._on_left()

    def _limit_age(self, subscription: Subscription) -> asyncio.TimerHandle | None:
        if not self._max_age_s:
            return None
        # Spread: the readers of a gateway that stopped came together, and would all come back together.
        age_s = self._max_age_s * random.uniform(0.8, 1.0)
        return asyncio.get_running_loop().call_later(age_s, subscription.close, End.CLOSED)

    async def _stream(self, subscription: Subscription, encoder: Encoder, send: Send) -> str:
        """Send everything; returns what ended it."""
        end = "error"
        pulse = _Pulse(subscription, self._heartbeat_s)
        try:
            await self._send_all(subscription, encoder, pulse, send)
            end = str(End.FINISHED if encoder.over else subscription.end)
        except errors.Unavailable as error:
            end = error.code
        except UnreadError:
            end = "unread"
            if self._connection is not None:
                self._connection.abort()
        except Exception:  # the stream's boundary: raised further it could not become a response any more
            logger.exception("a stream failed", extra={"action": "stream_failed"})
        finally:
            pulse.stop()
            self._metrics.ended_by(end)
        if end == End.FINISHED:
            await send({"type": "http.response.body", "body": b""})
        return end  # everything else is a reset: no last chunk

    async def _send_all(
        self, subscription: Subscription, encoder: Encoder, pulse: _Pulse, send: Send
    ) -> None:
        await self._send_body(encoder.opening(), 0, send)
        while not encoder.over:
            resting = encoder.resting
            try:
                frames = await subscription.batch(wait=not resting)
            except StopAsyncIteration:
                return
            if len(frames) > 1:
                await self._send_portions(encoder, frames, send)
            elif frames:
                body = encoder.take(frames)
                frames.clear()
                await self._send_body(body, 1, send)
            elif resting:
                await self._send_body(encoder.rest(), 0, send)
            else:
                await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
            pulse.sent()

    async def _send_portions(self, encoder: Encoder, frames: list[Frame], send: Send) -> None:
        """Send what piled up in portions, and let go of each as soon as it is encoded."""
        frames.reverse()
        while frames:
            portion = [frames.pop()]
            size = len(portion[0].wire)
            while frames and size + len(frames[-1].wire) <= PIECE:
                portion.append(frames.pop())
                size += len(portion[-1].wire)
            body, events = encoder.take(portion), len(portion)
            del portion
            await self._send_body(body, events, send)

    async def _send_body(self, body: bytes, events: int, send: Send) -> None:
        if len(body) > PIECE:
            await self._outgoing.send(body, send)
        elif body:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        self._metrics.sent(events, len(body))


class _Pulse:
    """Nudges a subscription that was silent for too long. One timer per heartbeat, not one per event."""

    def __init__(self, subscription: Subscription, interval_s: float) -> None:
        self._feed = subscription
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(interval_s, self._beat)

    def sent(self) -> None:
        self._sent_at = self._loop.time()

    def _beat(self) -> None:
        now = self._loop.time()
        left = self._sent_at + self._interval_s - now
        if left <= 0:
            self._feed.nudge()
            left = self._interval_s
        self._timer = self._loop.call_later(left, self._beat)

    def stop(self) -> None:
        self._timer.cancel()


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client is gone. Of a request without a body, a server first says that there is none."""
    while (await receive())["type"] != "http.disconnect":
        pass
