"""Operations of a process that dies between any two writes: to the store, the archive, files, broker and webhooks.

Of the archive each statement and each commit counts, of files each one that is written and each folder that goes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from mainstem_shared import archive
from mainstem_shared.archive.database import Archive
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.files import Files
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from support.processes import dying_process
from support.processes.dying_process import Life


class MortalFiles:
    """A driver of blobs that writes for as long as the life lasts."""

    def __init__(self, driver: drivers.Driver, life: Life) -> None:
        self._driver = driver
        self._life = life

    def put(self, run_id: str, digest: str, data: bytes) -> None:
        self._life.act()
        self._driver.put(run_id, digest, data)

    def drop(self, run_id: str) -> None:
        self._life.act()
        self._driver.drop(run_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


class MortalPublisher:
    """A front of the broker that sends for as long as the life lasts."""

    def __init__(self, publisher: Any, life: Life) -> None:
        self._publisher = publisher
        self._life = life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._publisher, name)

        async def mortal(*args: Any, **named: Any) -> Any:
            self._life.act()
            return await method(*args, **named)

        return mortal


async def mortal(settings: Settings, publisher: Any, life: Life) -> Operations:
    """Return what a process changes runs with while it lives; its archive is open, its engine disposable."""
    store = dying_process.store(settings.redis_url.get_secret_value(), life)
    store.archive = archive.connect(settings)
    if store.archive is not None:
        await _bound(store.archive, life)
    operations = Operations(store=store, settings=settings, publisher=MortalPublisher(publisher, life))  # type: ignore[arg-type]
    files: Any = MortalFiles(drivers.of(settings), life)
    object.__setattr__(operations, "files", Files(settings, files))
    return operations


async def _bound(kept: Archive, life: Life) -> None:
    engine = (await kept.open()).sync_engine

    def before_statement(*given: Any) -> None:
        if not given[2].lstrip().upper().startswith("SELECT"):
            life.act()

    def before_commit(_: Any) -> None:
        life.act()

    event.listen(engine, "before_cursor_execute", before_statement)
    event.listen(engine, "commit", before_commit)


def courier(operations: Operations, life: Life) -> Courier:
    """Return a courier whose requests are writes, too."""
    made: Any = Courier(operations)
    post = made._webhooks.post

    async def mortal_post(*args: Any, **named: Any) -> int:
        life.act()
        return await post(*args, **named)

    made._webhooks.post = mortal_post
    return made
