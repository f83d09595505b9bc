"""Who a request comes from: the one dependency that authentication will change."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from mainstem_shared.principals import Principal


def principal() -> Principal:
    """Return the user of this request; without authentication everybody is `local` of `default`."""
    return Principal()


Caller = Annotated[Principal, Depends(principal)]
