"""Decides whether an address is loopback, and refuses to serve others without authentication."""

from __future__ import annotations

import ipaddress
import socket

from mainstem_shared import errors
from mainstem_shared.settings import Settings


def is_loopback(host: str) -> bool:
    """Tell whether a name or address leads to this machine only; a name by all that it resolves to."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)} if host else set[str]()
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)


def check_address(settings: Settings, host: str) -> None:
    """Make sure that a gateway without authentication is reached from its own machine only.

    Raises:
        Misconfigured: it would listen on `host`, which others reach.
    """
    if settings.auth == "none" and not is_loopback(host):
        raise errors.Misconfigured(
            f"MAINSTEM_AUTH=none on {host or 'all addresses'}: who reaches it would be the same user. "
            "Set MAINSTEM_AUTH to jwt or proxy, or MAINSTEM_HOST to 127.0.0.1."
        )
