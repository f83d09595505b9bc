"""Authenticators identify the user of a request; MAINSTEM_AUTH chooses one of them.

`authenticator` makes one of three from the settings; `middleware.access` asks it for every request. How
tokens are checked stands in `jwt`, trusted headers in `proxy`. A host that mounts the app may bring its own.
"""

from __future__ import annotations

from typing import Protocol

from starlette.types import Scope

from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings
from mainstem_shared.store.loopback import check_address


class Authenticator(Protocol):
    """Tells who makes a request."""

    async def authenticate(self, scope: Scope) -> Principal:
        """Return the user of a request, by its ASGI scope.

        Raises:
            NotAuthenticated: it proves nothing.
            KeysUnavailable: it cannot be told right now.
        """
        ...

    async def aclose(self) -> None: ...


class NoAuthentication:
    """Everybody is `local` of `default`."""

    async def authenticate(self, scope: Scope) -> Principal:
        del scope
        return Principal()

    async def aclose(self) -> None:
        pass


def authenticator(settings: Settings) -> Authenticator:
    """Return what the settings ask for.

    Raises:
        Misconfigured: it would let anybody in, or nobody.
    """
    match settings.auth:
        case "none":
            check_address(settings, settings.host)
            return NoAuthentication()
        case "jwt":
            from mainstem_api.gateway.auth.jwt import JwtAuthentication

            return JwtAuthentication(settings)
        case "proxy":
            from mainstem_api.gateway.auth.proxy import ProxyAuthentication

            return ProxyAuthentication(settings)
