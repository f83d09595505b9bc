"""`mainstem token` makes a token for a gateway that checks MAINSTEM_JWT_SECRET, to try things out with."""

from __future__ import annotations

import json
import time
from typing import Annotated

import jwt
import typer

from mainstem_api.cli._options import Exit, Json
from mainstem_shared.settings import Settings


def token(
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Whose token it is.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Their tenant.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="With the scope of an operator.")] = False,
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="For how long it is valid.")] = 12,
    as_json: Json = False,
) -> None:
    """Print a token of a user, signed with MAINSTEM_JWT_SECRET."""
    settings = Settings()
    if settings.jwt_secret is None:
        words = "MAINSTEM_JWT_SECRET is not set: other tokens are made by your identity provider."
        typer.secho(words, fg=typer.colors.RED, err=True)
        raise typer.Exit(Exit.REFUSED)
    now = int(time.time())
    claims = {
        "sub": user,
        "tenant": tenant,
        "scope": "admin" if admin else None,
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + int(hours * 3600),
    }
    given = {name: value for name, value in claims.items() if value is not None}
    made = jwt.encode(given, settings.jwt_secret.get_secret_value(), algorithm="HS256")
    print(json.dumps({"token": made, "expires_at": given["exp"]}) if as_json else made)
