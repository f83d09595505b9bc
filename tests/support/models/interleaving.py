"""Several operations at once, one command of the store at a time, in an order that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from mainstem_shared.store.client import Store

T = TypeVar("T")


class Turnstile:
    """Where everybody waits for a turn."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[None]] = {}

    async def turn(self, name: str) -> None:
        """Wait until it is `name`'s turn."""
        self.waiting[name] = asyncio.get_running_loop().create_future()
        await self.waiting[name]

    async def run(
        self, actors: Mapping[str, Awaitable[Any]], choose: Callable[[Sequence[str]], str]
    ) -> dict[str, Any]:
        """Run all actors, giving each turn to whom `choose` names; returns what each returned or raised."""
        tasks = {name: asyncio.ensure_future(actor) for name, actor in actors.items()}
        try:
            while unfinished := {name for name, task in tasks.items() if not task.done()}:
                if unfinished <= self.waiting.keys():
                    self.waiting.pop(choose(sorted(unfinished))).set_result(None)
                await asyncio.sleep(0)
        finally:
            for task in tasks.values():
                task.cancel()
            results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        return dict(zip(tasks, results, strict=True))


class GatedStore(Store):
    """A store whose every patient operation waits for its owner's turn."""

    def __init__(self, store: Store, name: str, turnstile: Turnstile) -> None:
        super().__init__(store.url)
        self.connections = store.connections
        self._name = name
        self._turnstile = turnstile

    async def patiently(self, operation: Callable[[], Awaitable[T]], *, patience_s: float | None = None) -> T:
        await self._turnstile.turn(self._name)
        return await super().patiently(operation, patience_s=patience_s)
