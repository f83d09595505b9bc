"""`MAINSTEM_AUTH=proxy` takes the user from a header that an authenticating proxy in front sets.

Trusted is the connection, not what it says about itself: only the address of the TCP peer counts. Headers
like X-Forwarded-For never do, which is why our server runs with uvicorn's rewriting of peers switched off.
"""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from mainstem_api.gateway.auth.claims import principal
from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyAuthentication:
    """Users are who MAINSTEM_PROXY_USER_HEADER names, on connections from MAINSTEM_PROXY_PEERS."""

    def __init__(self, settings: Settings) -> None:
        self._peers = _networks(settings.proxy_peers)
        self._user = settings.proxy_user_header
        self._tenant = settings.proxy_tenant_header
        self._scopes = settings.proxy_scope_header

    async def authenticate(self, scope: Scope) -> Principal:
        if not self._is_trusted(scope):
            raise errors.NotAuthenticated("Come through the proxy.", challenge="Proxy")
        headers = Headers(scope=scope)
        user = _only(headers, self._user)
        if user is None:
            raise errors.NotAuthenticated("The proxy names no user.", challenge="Proxy")
        tenant = _only(headers, self._tenant) if self._tenant else None
        return principal(user, tenant, _only(headers, self._scopes) if self._scopes else None)

    def _is_trusted(self, scope: Scope) -> bool:
        peer = scope.get("client")
        try:
            address = ipaddress.ip_address(peer[0] if peer else "")
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # how a dual-stack socket spells an IPv4 peer
        return any((mapped or address) in network for network in self._peers)

    async def aclose(self) -> None:
        pass


def _only(headers: Headers, name: str) -> str | None:
    """Return a header's value. A second one was not written by the proxy: nobody knows which is whose."""
    values = headers.getlist(name)
    if len(values) > 1:
        raise errors.NotAuthenticated("The proxy's header came twice.", challenge="Proxy")
    if not values or not values[0]:
        return None
    try:
        return values[0].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise errors.NotAuthenticated("The proxy's header is not UTF-8.", challenge="Proxy") from None


def _networks(text: str) -> list[_Network]:
    try:
        parts = [part.strip() for part in text.split(",")]
        found = [ipaddress.ip_network(part, strict=False) for part in parts if part]
    except ValueError as error:
        raise errors.Misconfigured(f"MAINSTEM_PROXY_PEERS: {error}") from error
    if not found:
        raise errors.Misconfigured(
            "MAINSTEM_AUTH=proxy needs MAINSTEM_PROXY_PEERS: the proxies' addresses, like 10.0.0.5,fd00::/64."
        )
    return found
