"""Sends webhooks: one signed POST to an address that is checked at the moment of connecting.

Names are resolved here, each address is judged, and the connection goes to the very address that was: a name
that resolves otherwise a moment later changes nothing. Redirects are failures, an answer's body is not read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import httpcore

from mainstem_shared.operations import callback_policy
from mainstem_shared.operations.callback_policy import Address, Webhook
from mainstem_shared.settings import Settings

ATTEMPT_S: Final = 15.0
"""The longest an attempt may take, from the look-up of the name to the answer's status."""
CONNECTIONS: Final = 64
ANSWER_BYTES: Final = 16 * 1024
"""How much of an answer is read: nothing in it matters."""
FAILURES: Final = (
    httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol,
    OSError, TimeoutError, ssl.SSLError,
)  # fmt: skip
"""What an attempt may end with."""


class AddressRefused(OSError):
    """A name has no address that a webhook may go to."""


async def _read_some(answer: httpcore.Response) -> None:
    """Read a short answer to its end, for the sake of the connection; a long one loses it."""
    left = ANSWER_BYTES
    async for chunk in answer.aiter_stream():
        left -= len(chunk)
        if left < 0:
            return


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that may be reached, and to no other, whatever their name says later."""

    def __init__(self, may_reach: Callable[[Address], bool]) -> None:
        self._may_reach = may_reach
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a name that may be reached, and answers."""
        failure: Exception = AddressRefused(f"{host} has no address that a webhook may go to")
        for address in await self._resolved(host, port):
            if not self._may_reach(ipaddress.ip_address(address.partition("%")[0])):
                continue
            try:
                return await self._network.connect_tcp(
                    address, port, timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    @staticmethod
    async def _resolved(host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        return [str(info[4][0]) for info in found]

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: a webhook is no file."""
        raise AddressRefused("a webhook is no file")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await asyncio.sleep(seconds)


def _tls() -> ssl.SSLContext:
    """Return what webhooks trust, as httpx decides it: certifi's authorities, or SSL_CERT_FILE's."""
    import httpx  # brings rich: 4 MB of each worker, most of which send no webhook

    return httpx.create_ssl_context()


class Webhooks:
    """The connections of one process's webhooks: the operator's own, and those that users named."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}
        self._opening = asyncio.Lock()

    async def post(self, webhook: Webhook, body: bytes, *, headers: Mapping[str, str]) -> int:
        """Send a message; returns the status of the answer.

        Raises:
            OSError, httpcore's errors: there was none; see FAILURES.
        """
        url = httpcore.URL(
            scheme=webhook.scheme.encode(),
            host=webhook.host.encode(),
            port=webhook.port,
            target=webhook.path.encode(),
        )
        sent = {"host": webhook.authority, "content-type": "application/json", **headers}
        pool = await self._pool(is_operators=webhook.is_operators)
        stream = pool.stream("POST", url, headers=list(sent.items()), content=body)
        async with asyncio.timeout(ATTEMPT_S), stream as answer:
            await _read_some(answer)
            return int(answer.status)

    async def _pool(self, *, is_operators: bool) -> httpcore.AsyncConnectionPool:
        async with self._opening:
            if is_operators not in self._pools:
                self._pools[is_operators] = httpcore.AsyncConnectionPool(
                    ssl_context=await asyncio.to_thread(_tls),  # reads hundreds of certificates
                    max_connections=CONNECTIONS,
                    keepalive_expiry=5.0,
                    network_backend=CheckedNetwork(self._anywhere if is_operators else self._may_reach),
                )
            return self._pools[is_operators]

    def _may_reach(self, address: Address) -> bool:
        return callback_policy.may_reach(self._settings, address)

    @staticmethod
    def _anywhere(_: Address) -> bool:
        return True

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()
        self._pools.clear()
