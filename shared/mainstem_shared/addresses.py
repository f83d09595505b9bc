"""Which addresses lead to this machine only. For whoever listens, or would ask a proxy of the environment."""

from __future__ import annotations

import ipaddress
import socket


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
