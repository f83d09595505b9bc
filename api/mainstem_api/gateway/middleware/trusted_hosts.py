"""Refuses requests with several `Host` headers and, without authentication, those from other machines.

Part of the app and not of its server: a gateway that is mounted into another app keeps its guarantee under
whatever server and address that has.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.middleware.origins import host_of, is_here

_HOST: Final = (
    400,
    "ambiguous_host",
    "Send one Host header: two readers of this request could see two addresses in it.",
)
_NAME: Final = (
    421,
    "misdirected_request",
    "Without authentication this machine is served under its own names only, like localhost.",
)
_PEER: Final = (
    403,
    "not_local",
    (
        "Without authentication only this machine is served: everybody else would be the same user. "
        "Set MAINSTEM_AUTH to jwt or proxy, or pass an authenticator to create_app."
    ),
)
_FORWARDED: Final = ("x-forwarded-for", "x-real-ip", "forwarded")
_FOR: Final = re.compile(r'for\s*=\s*"?([^;,"]*)', re.IGNORECASE)
_PORT: Final = re.compile(r"^(\[[^\]]*\]|[^:]*):\d+$")


class TrustedHosts:
    """Refuses requests with more than one `Host`, and under `local_only` those that strangers can make."""

    def __init__(self, app: ASGIApp, *, local_only: bool, own_host: str) -> None:
        self._app = app
        self._local_only = local_only
        self._own_host = own_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            status, code, words = refusal
            await problems.problem(status, code, words)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope.get("http_version") == "1.1"):  # RFC 9112, 3.2
            return _HOST
        if not self._local_only:
            return None
        if not (_is_local_peer(scope) and all(map(_is_local, _forwarded(headers)))):
            return _PEER
        return None if is_own_host(hosts[0] if hosts else "", self._own_host) else _NAME


def is_own_host(given: str, own: str) -> bool:
    """Tell whether a `Host` header names this machine: by its spelling, or as `own` does."""
    name = host_of(f"//{given}")
    return not given or is_here(name) or name == own


def _is_local_peer(scope: Scope) -> bool:
    """Tell whether the connection comes from this machine: over loopback, or a Unix socket."""
    peer, server = scope.get("client"), scope.get("server")
    if peer is None:
        return server is not None and server[1] is None  # how ASGI shows a Unix socket
    return _is_local(str(peer[0]))


def _forwarded(headers: Headers) -> list[str]:
    """Return for whom proxies say that they forward: a proxy on this machine serves others, too."""
    found: list[str] = []
    for name in _FORWARDED:
        for value in headers.getlist(name):
            found += _FOR.findall(value) if name == "forwarded" else value.split(",")
    return found


def _is_local(address: str) -> bool:
    address = address.strip()
    with_port = _PORT.match(address)
    try:
        parsed = ipaddress.ip_address((with_port[1] if with_port else address).strip("[]"))
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # how a dual-stack socket spells an IPv4 peer
    return (mapped or parsed).is_loopback
