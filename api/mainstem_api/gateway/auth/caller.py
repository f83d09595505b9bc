"""Dependencies give routes the request's caller: `Caller`, `Operator`, `Operates`. `access` determines it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations.queries.listings import Query


async def principal(request: Request) -> Principal:
    """Return the user of this request.

    Raises:
        NotAuthenticated: nobody proved to be one.
    """
    return await request.app.state.access.principal_of(request.scope)


Caller = Annotated[Principal, Depends(principal)]


def query_of(caller: Principal, user: str | None) -> Query | None:
    """Return the query for a user's runs: the caller's by default; for an admin also another's, or `*`: all.

    None: the caller may not see them; for them there are none.
    """
    user_id = caller.user_id if user is None else user
    if user_id != caller.user_id and not caller.is_admin:
        return None
    return Query(tenant=caller.tenant, user_id=None if user_id == "*" and caller.is_admin else user_id)


async def operates(request: Request, caller: Caller) -> bool:
    """Tell whether the user of this request operates the deployment: an admin, or who is alone on it."""
    return caller.is_admin or request.app.state.local_only


Operates = Annotated[bool, Depends(operates)]


async def operator(caller: Caller, *, is_operator: Operates) -> Principal:
    """Return the user of this request if they operate the deployment: an admin, or who is alone on it.

    Raises:
        Forbidden: they do not.
    """
    if not is_operator:
        raise errors.Forbidden
    return caller


Operator = Annotated[Principal, Depends(operator)]
