"""`run.memory` is what an engine keeps on a thread: bytes by key, which its later runs there find again.

Writes are staged in the process. The next checkpoint, pause or end of the run commits them, in one step with
the engine's state and the content that they belong to, so that a crash never leaves one without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from mainstem_shared import errors
from mainstem_shared.model.memories import KEY_LIMIT, Changes
from mainstem_shared.settings import Settings

LoadMemory = Callable[[], Awaitable[dict[str, bytes]]]
"""Reads what was committed so far."""


async def _nothing() -> dict[str, bytes]:
    return {}


class Memory:
    """One engine's memory of one thread. It is read from the store when it is first asked for.

    Two engines on a thread have a memory each. A run that ends as failed or aborted commits what it put, too;
    one whose worker is lost does not: its memory is that of its last checkpoint.
    """

    def __init__(
        self, load: LoadMemory = _nothing, *, engine: str = "", settings: Settings | None = None
    ) -> None:
        settings = settings or Settings()
        self._load = load
        self._engine = engine
        self._max_bytes: Final = settings.memory_max_kb * 1024
        self._max_keys: Final = settings.memory_max_keys
        self._values: dict[str, bytes] | None = None
        self._staged: dict[str, bytes | None] = {}
        self._size = 0
        self._ttl_ms: Final = settings.thread_ttl_ms
        self._loading = asyncio.Lock()

    async def get(self, key: str) -> bytes | None:
        """Return what stands under a key, staged writes included; None if nothing does."""
        return (await self._loaded()).get(key)

    async def items(self, prefix: str = "") -> dict[str, bytes]:
        """Return all keys that begin with a prefix, in their order, and what stands under them."""
        values = await self._loaded()
        return {key: values[key] for key in sorted(values) if key.startswith(prefix)}

    async def put(self, key: str, value: bytes) -> None:
        """Put bytes under a key; the next checkpoint, pause or end commits them.

        Raises:
            ValueError: the key is empty, or has more than 512 bytes.
            MemoryTooLarge: it would be over MAINSTEM_MEMORY_MAX_KB, or MAINSTEM_MEMORY_MAX_KEYS.
        """
        if not 0 < len(key.encode()) <= KEY_LIMIT:
            raise ValueError(f"a key has 1 to {KEY_LIMIT} bytes")
        values, kept = await self._loaded(), bytes(value)
        if values.get(key) == kept:
            return
        size = self._size + _weight(key, kept) - _weight(key, values.get(key))
        if size > self._max_bytes:
            raise errors.MemoryTooLarge(what=f"{size} bytes", limit=f"{self._max_bytes // 1024} KB")
        if key not in values and len(values) >= self._max_keys:
            raise errors.MemoryTooLarge(what=f"{len(values) + 1} keys", limit=f"{self._max_keys} keys")
        values[key] = self._staged[key] = kept
        self._size = size

    async def delete(self, key: str) -> None:
        """Remove a key; a missing one is no error."""
        values = await self._loaded()
        if key in values:
            self._size -= _weight(key, values.pop(key))
            self._staged[key] = None

    # -- the other end

    def changes(self) -> Changes | None:
        """Return what is to be committed now; None if nothing is."""
        if not self._staged:
            return None
        return Changes(engine=self._engine, values=dict(self._staged), size=self._size, ttl_ms=self._ttl_ms)

    def committed(self, changes: Changes | None) -> None:
        """Take note that these changes are in the store; what was put since then is still to be committed."""
        values: Mapping[str, bytes | None] = {} if changes is None else changes.values
        for key, value in values.items():
            if key in self._staged and self._staged[key] is value:
                del self._staged[key]

    async def _loaded(self) -> dict[str, bytes]:
        if self._values is None:
            async with self._loading:
                if self._values is None:
                    values = await self._load()
                    self._size = sum(_weight(key, value) for key, value in values.items())
                    self._values = values
        return self._values


def _weight(key: str, value: bytes | None) -> int:
    return 0 if value is None else len(key.encode()) + len(value)
