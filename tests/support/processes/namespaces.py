"""A network namespace of the test's own, from which one address after the other can be cut off. Needs root."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace, joined to this machine by one cable; `addresses` are this machine's on it."""

    name: str
    addresses: tuple[str, ...]

    def cut(self, address: str) -> None:
        """Drop whatever goes to an address, silently, as a broken switch does."""
        _ip("-n", self.name, "route", "add", "blackhole", f"{address}/32")

    def mend(self, address: str) -> None:
        _ip("-n", self.name, "route", "del", "blackhole", f"{address}/32")

    def run(self, work: Any) -> Any:
        """Do something in a thread whose sockets are the namespace's; returns its result."""
        result: list[Any] = []

        def inside() -> None:
            self._enter()
            result.append(work())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        assert result, "it failed inside the namespace; see above"
        return result[0]

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        place = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(place, _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(place)


@contextmanager
def namespace(*, addresses: int) -> Iterator[Namespace]:
    """Make a namespace; it is gone afterwards, and its cable with it."""
    name, network = f"ms{os.getpid()}", f"10.213.{os.getpid() % 250}"
    made = Namespace(name=name, addresses=tuple(f"{network}.{n + 1}" for n in range(addresses)))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}n", "netns", name)
        for address in made.addresses:
            _ip("addr", "add", f"{address}/24", "dev", f"{name}h")
        _ip("link", "set", f"{name}h", "up")
        _ip("-n", name, "addr", "add", f"{network}.200/24", "dev", f"{name}n")
        _ip("-n", name, "link", "set", f"{name}n", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=20)
