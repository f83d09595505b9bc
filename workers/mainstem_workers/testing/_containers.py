"""Runs the same nodes in containers, where a Docker engine is: MAINSTEM_TESTING=containers.

They share the host's network, so that every address is the same inside and outside, as it is for processes.
The worker's image is the one that `docker compose build` makes; MAINSTEM_TESTING_IMAGE names another.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

START_TIMEOUT_S: Final = 120.0
VALKEY_IMAGE: Final = "valkey/valkey:9"
TESTS: Final = "/tests"
"""Where the worker's container finds the modules under test."""


def chosen() -> bool:
    """Tell whether nodes are to be containers."""
    return os.environ.get("MAINSTEM_TESTING", "processes") == "containers"


def worker_image() -> str:
    """Name the image whose `mainstem worker` is tested."""
    return os.environ.get("MAINSTEM_TESTING_IMAGE", "mainstem:latest")


def run(image: str, command: list[str], *, env: dict[str, str], ready: str, modules: Path | None) -> Any:
    """Start a container and wait until it has logged `ready`; returns docker-py's object.

    Args:
        image: what to run.
        command: the arguments of the image's entry point.
        env: its environment.
        ready: what it logs when it is ready.
        modules: a directory to be mounted, read-only, at TESTS.

    Raises:
        RuntimeError: it ended, or was not ready in time; with the end of its log.
    """
    import docker

    container: Any = docker.from_env().containers.run(
        image,
        command,
        detach=True,
        network_mode="host",
        environment=env,
        volumes={} if modules is None else {str(modules): {"bind": TESTS, "mode": "ro"}},
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while ready.encode() not in container.logs():
        container.reload()
        if container.status == "exited" or time.monotonic() > deadline:
            log = container.logs()[-3000:].decode(errors="replace")
            container.remove(force=True, v=True)
            raise RuntimeError(f"{image} did not start:\n{log}")
        time.sleep(0.1)
    return container
