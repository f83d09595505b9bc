"""Nodes present a Valkey server and a worker as pytest-celery's containers: local processes, or real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from pytest_celery import CeleryWorkerContainer, RedisContainer

from mainstem_shared.store.embedded import find_server_binary, free_port
from mainstem_workers.testing import _containers
from mainstem_workers.testing._process import STOP_TIMEOUT_S, ProcessContainer

BROKER_DB = 0
"""The one pytest-celery's own app uses."""
STORE_DB = 1
POOL = "mainstem_workers.pool:TaskPool"


class ValkeyContainer(RedisContainer):
    """Store and broker. The port stays the same over restarts, the data is kept."""

    @property
    def port(self) -> int:
        """Its port, which it was told by its command; its environment remembers it."""
        environment: list[str] = cast("Any", self._container).attrs["Config"]["Env"]
        return int(next(line for line in environment if line.startswith("PORT=")).removeprefix("PORT="))

    def database(self, number: int) -> str:
        """Return the address of one of its databases."""
        return f"redis://127.0.0.1:{self.port}/{number}"

    @property
    def url(self) -> str:
        return self.database(BROKER_DB)

    @property
    def host_url(self) -> str:
        return self.database(BROKER_DB)


def start_valkey(directory: Path) -> ValkeyContainer:
    """Start a server on a free port, with an append-only file in `directory`."""
    port, ready = str(free_port()), "Ready to accept connections"
    options = ["--port", port, "--bind", "127.0.0.1", "--maxmemory-policy", "noeviction"]
    options += ["--appendonly", "yes", "--save", ""]
    if _containers.chosen():
        command = ["valkey-server", *options]
        image = _containers.VALKEY_IMAGE
        return ValkeyContainer(_containers.run(image, command, env={"PORT": port}, ready=ready, modules=None))
    command = [str(find_server_binary()), *options, "--dir", str(directory)]
    process = ProcessContainer("valkey", command, ready=ready, directory=directory, env={"PORT": port})
    process.start()
    return ValkeyContainer(process)


class MainstemContainer(CeleryWorkerContainer):
    """A worker process with Mainstem's own app, or with the one that `-A` names."""


def start_worker(directory: Path, env: dict[str, str], *, modules: Path, app: str = "") -> MainstemContainer:
    """Start a worker on the asyncio pool: of a Celery app (`celery -A app`), or `mainstem worker`.

    `modules` is where a container finds what `env` and `app` name; a process finds it by its PYTHONPATH.
    """
    name = ["-n", f"{MainstemContainer.worker_name()}@%h", "--loglevel", MainstemContainer.log_level()]
    if _containers.chosen():
        # The image's entry point is `mainstem`; with an app of one's own the image is one's own, too.
        command = ["-A", app, "worker", "--pool", "custom", "-c", "1000", "-E"] if app else ["worker"]
        env = {"CELERY_CUSTOM_WORKER_POOL": POOL, **env, "PYTHONPATH": _containers.TESTS}
        image = _containers.worker_image()
        return MainstemContainer(
            _containers.run(image, [*command, *name], env=env, ready=" ready.", modules=modules)
        )
    ours = ["-m", "mainstem_workers", "worker"]
    theirs = ["-m", "celery", "-A", app, "worker", "--pool", "custom", "-c", "1000", "-E"]
    process = ProcessContainer(
        "worker",
        [sys.executable, *(theirs if app else ours), *name],
        ready=" ready.",
        directory=directory,
        env={"CELERY_CUSTOM_WORKER_POOL": POOL, **env},
    )
    process.start()
    return MainstemContainer(process)


def stop(container: Any) -> None:
    """End a container for good, whatever the test did to it."""
    node = container._container  # noqa: SLF001 - the wrapper refuses, and leaves it to its own fixture
    node.stop(timeout=STOP_TIMEOUT_S)
    node.remove(v=True)
