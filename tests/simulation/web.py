"""What lies between browsers and gateways: requests with answers, and streams, over the simulated network.

HTTP itself is left out: a request is a method of the gateway and its arguments, an answer a value or an error. A
stream is the product's ASGI response, with `receive` and `send` of this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mainstem_shared import errors
from simulation.network import Network
from simulation.timeline import Process


class Lost(Exception):
    """The connection broke before the answer."""


class Handler(Protocol):
    """What serves requests: `fleet.GatewayProcess`."""

    process: Process

    async def handle(self, method: str, arguments: dict[str, Any]) -> Any: ...
    async def stream(self, arguments: dict[str, Any], receive: Any, send: Any) -> None: ...


class Web:
    """Carries requests of one process of browsers."""

    def __init__(self, network: Network, browsers: Process) -> None:
        self.network = network
        self.browsers = browsers

    def _cut(self, gateway: Process) -> bool:
        return self.network.is_cut(gateway.name, self.browsers.name)

    def _after(self, gateway: Process, call: Callable[[], Any], process: Process) -> None:
        """Have something happen at the other end, unless the link is cut when it would arrive."""
        latency_s = self.network.latency_s(gateway.name, self.browsers.name)
        timeline = self.network.timeline

        def arrive() -> None:
            if not self._cut(gateway):
                call()

        timeline.after(latency_s, arrive, process)

    async def request(
        self, handler: Handler, method: str, arguments: dict[str, Any], *, timeout_s: float
    ) -> Any:
        """Ask a gateway.

        Raises:
            Lost: nobody knows what came of it.
            MainstemError: the gateway's answer.
        """
        gateway, loop = handler.process, asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()

        def answer(result: Any, error: BaseException | None) -> None:
            if answered.done():
                return
            if error is None:
                answered.set_result(result)
            else:
                answered.set_exception(error)

        async def serve() -> None:
            result, failure = None, None
            try:
                result = await handler.handle(method, arguments)
            except errors.MainstemError as error:
                failure = error
            if self.network.loses(self.network.weather.lost_replies):
                self._after(gateway, lambda: answer(None, Lost("reply")), self.browsers)
            else:
                self._after(gateway, lambda: answer(result, failure), self.browsers)

        self._begin(gateway, serve, lambda: answer(None, Lost("gone")))
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError as error:
            raise Lost("no answer") from error

    def _begin(
        self, gateway: Process, serve: Callable[[], Awaitable[None]], lost: Callable[[], None]
    ) -> None:
        """Start work in a gateway; `lost` is called if it is not there, or dies before it is done."""
        timeline, browsers = self.network.timeline, self.browsers

        def die() -> None:
            timeline.after(self.network.latency_s(gateway.name, browsers.name), lost, browsers)

        if not gateway.is_alive or self.network.loses(self.network.weather.lost_requests):
            die()
            return
        gateway.on_death.append(die)

        def start() -> None:
            task: asyncio.Task[None] = gateway.kept["loop"].create_task(serve())
            tasks: set[Any] = gateway.kept.setdefault("tasks", set())
            tasks.add(task)

            def ended(done: Any) -> None:
                tasks.discard(done)
                if die in gateway.on_death:
                    gateway.on_death.remove(die)

            task.add_done_callback(ended)

        self._after(gateway, start, gateway)


class Stream:
    """One open event stream, as a browser reads it. `chunks` ends with b"" at a clean end."""

    def __init__(self, web: Web, handler: Handler, arguments: dict[str, Any]) -> None:
        self._web = web
        self._gateway = handler.process
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._left: Callable[[], None] = lambda: None
        self._is_left = False
        self.status = 0
        self._sent_at = 0.0
        web._begin(self._gateway, lambda: self._serve(handler, arguments), lambda: self._put(Lost("gone")))

    async def chunk(self, timeout_s: float) -> bytes:
        """Return the next bytes; none at the clean end.

        Raises:
            Lost: it was reset, or is silent for too long.
        """
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._chunks.get()
        except TimeoutError as error:
            raise Lost("silent") from error
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Leave."""
        self._is_left = True
        self._web._after(self._gateway, lambda: self._left(), self._gateway)  # noqa: PLW0108 - as of then

    def _put(self, found: bytes | Exception) -> None:
        if not self._is_left:
            self._chunks.put_nowait(found)

    async def _serve(self, handler: Handler, arguments: dict[str, Any]) -> None:
        """Run the response in the gateway."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = lambda: None if gone.done() else gone.set_result(None)
        is_whole = False

        async def receive() -> dict[str, Any]:
            await gone
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal is_whole
            if message["type"] == "http.response.start":
                self._ship(lambda: setattr(self, "status", message["status"]))
                return
            body = bytes(message.get("body", b""))
            if body:
                self._ship(lambda: self._put(body))
            if not message.get("more_body"):
                is_whole = True
                self._ship(lambda: self._put(b""))

        try:
            await handler.stream(arguments, receive, send)
        except errors.MainstemError as error:
            self._ship(lambda error=error: self._put(error))
            return
        if not is_whole:
            self._ship(lambda: self._put(Lost("reset")))

    def _ship(self, call: Callable[[], Any]) -> None:
        """Deliver in order; what a cut swallows breaks the stream, as its silence or a hole would."""
        network, browsers = self._web.network, self._web.browsers
        latency_s = network.latency_s(self._gateway.name, browsers.name)
        self._sent_at = max(self._sent_at + 1e-7, network.timeline.now + latency_s)

        def arrive() -> None:
            if self._web._cut(self._gateway):
                self._put(Lost("cut"))
                self._is_left = True
            else:
                call()

        network.timeline.at(self._sent_at, arrive, browsers)
