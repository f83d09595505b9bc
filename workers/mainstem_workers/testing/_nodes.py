"""A Valkey server and a Mainstem worker as pytest-celery's containers, over local processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

from pytest_celery import CeleryWorkerContainer, RedisContainer

from mainstem_shared.embedded import find_server_binary, free_port
from mainstem_workers.testing._process import ProcessContainer

BROKER_DB = 0
"""The one pytest-celery's own app uses."""
STORE_DB = 1
POOL = "mainstem_workers.pool:TaskPool"


class ValkeyContainer(RedisContainer):
    """Store and broker. The port stays the same over restarts, the data is kept."""

    @property
    def process(self) -> ProcessContainer:
        return cast("ProcessContainer", self._container)

    @property
    def port(self) -> int:
        return int(self.process.env["PORT"])

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
    port = free_port()
    process = ProcessContainer(
        "valkey",
        [
            str(find_server_binary()),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        ],
        ready="Ready to accept connections",
        directory=directory,
        env={"PORT": str(port)},
    )
    process.start()
    return ValkeyContainer(process)


class MainstemContainer(CeleryWorkerContainer):
    """A worker process with Mainstem's own app, or with the one that `-A` names."""


def start_worker(directory: Path, env: dict[str, str], *, app: str = "") -> MainstemContainer:
    """Start a worker on the asyncio pool: of a Celery app (`celery -A app`), or `mainstem worker`."""
    name = ["-n", f"{MainstemContainer.worker_name()}@%h", "--loglevel", MainstemContainer.log_level()]
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
    """End a container's process for good, whatever the test did to it."""
    container._container.remove()  # noqa: SLF001 - the wrapper refuses, and leaves it to its own fixture
