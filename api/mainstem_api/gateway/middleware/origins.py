"""Refuses other sites' pages, unless MAINSTEM_CORS_ORIGINS names them.

CORS alone keeps other pages from *reading*. Where a request needs no token (without authentication, or behind
a proxy that knows its users by their cookies) a foreign page could still *do* things: that is refused here.
A foreign name that was made to lead to this machine is refused in `trusted_hosts`.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope

from mainstem_shared import errors
from mainstem_shared.settings import Settings

ANY: Final = "*"
_HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFLIGHT_S: Final = 600
_EXPOSED: Final = (
    "Location", "Content-Location", "Idempotency-Replayed", "Retry-After", "X-Vercel-AI-UI-Message-Stream",
)  # fmt: skip
"""What pages of other origins may read: LangGraph's client learns a run's id from `Content-Location`."""


class Origins:
    """The origins that are allowed, and what is done about the others."""

    def __init__(self, settings: Settings) -> None:
        """Read the settings.

        Raises:
            Misconfigured: what they name are no origins, or all of them where a cookie is enough.
        """
        self._auth = settings.auth
        self._allowed = [part.strip() for part in settings.cors_origins.split(",") if part.strip()]
        for origin in self._allowed:
            url = urllib.parse.urlsplit(origin)
            if origin not in {ANY, f"{url.scheme}://{url.netloc}"}:
                raise errors.Misconfigured(
                    f"MAINSTEM_CORS_ORIGINS: {origin!r} is no origin, like https://chat.example.com."
                )
        if ANY in self._allowed and self._auth != "jwt":
            raise errors.Misconfigured(
                "MAINSTEM_CORS_ORIGINS=* would let every page act for a user; it needs MAINSTEM_AUTH=jwt."
            )

    @property
    def configured(self) -> bool:
        """Whether any other page may."""
        return bool(self._allowed)

    def cors(self) -> dict[str, Any]:
        """Return the options of Starlette's CORS middleware."""
        return {
            "allow_origins": self._allowed,
            "allow_methods": ["GET", "POST", "PATCH", "DELETE"],
            "allow_headers": ["*"],  # stock clients send headers of their own, x-stainless-lang for example
            "allow_credentials": self._auth == "proxy",
            "expose_headers": list(_EXPOSED),
            "max_age": _PREFLIGHT_S,
        }

    def check(self, scope: Scope) -> None:
        """Refuse what another site's page does in a user's name.

        Raises:
            Forbidden: it is that.
        """
        if self._auth == "jwt" or scope["method"] in _HARMLESS:
            return
        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None or origin in self._allowed or site in {"same-origin", "none"}:
            return
        if site is None and (self._auth == "proxy" or is_here(host_of(origin))):
            return  # an old browser, or none at all
        raise errors.Forbidden("Pages of other sites may not do this; see MAINSTEM_CORS_ORIGINS.")


def is_here(host: str) -> bool:
    """Tell whether a name that a client gave means this machine: by its spelling, nothing is looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(url: str) -> str:
    """Return the name or address in a URL; empty if there is none, or one that is easily misread."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return ""
    return "" if "@" in parts.netloc else parts.hostname or ""
