"""Who makes a request: what MAINSTEM_AUTH chooses between, and what it takes to start.

`authenticator` makes one of three from the settings; the `door` asks it for every request. How tokens are
checked stands in `jwts`, trusted headers in `proxies`. A host that mounts the app may bring its own.
"""

from __future__ import annotations

from typing import Final, Protocol

from pydantic import TypeAdapter, ValidationError
from starlette.types import Scope

from mainstem_shared import errors
from mainstem_shared.model import runs
from mainstem_shared.model.principals import DEFAULT_TENANT, Principal
from mainstem_shared.settings import Settings
from mainstem_shared.store.addresses import check_address

ADMIN: Final = "admin"
"""The scope that makes an admin."""
_NAME: Final[TypeAdapter[str]] = TypeAdapter(runs.UserId)


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
        Misconfigured: it would leave a door open, or let nobody in.
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


def principal(user: object, tenant: object, scopes: object) -> Principal:
    """Return the user that a token or a proxy names.

    Raises:
        NotAuthenticated: these cannot be names.
    """
    try:
        return Principal(
            user_id=_NAME.validate_python(user, strict=True),
            tenant=DEFAULT_TENANT if tenant is None else _NAME.validate_python(tenant, strict=True),
            is_admin=ADMIN in _words(scopes),
        )
    except ValidationError:
        raise errors.NotAuthenticated("The user or tenant named is none.") from None


def _words(scopes: object) -> list[object]:
    """Read scopes as RFC 8693 spells them, or as the list that some providers make of them."""
    if isinstance(scopes, str):
        return list[object](scopes.replace(",", " ").split())
    return list[object](scopes) if isinstance(scopes, list) else []  # pyright: ignore[reportUnknownArgumentType]
