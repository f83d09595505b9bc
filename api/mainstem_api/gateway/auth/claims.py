"""Validates the user, tenant and scopes that a token or a proxy names."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter, ValidationError

from mainstem_shared import errors
from mainstem_shared.model import runs
from mainstem_shared.model.principals import DEFAULT_TENANT, Principal

ADMIN: Final = "admin"
"""The scope that makes an admin."""
_NAME: Final[TypeAdapter[str]] = TypeAdapter(runs.UserId)


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
