"""Forwards connections to a gateway and breaks them at chosen bytes, for tests that are no coroutines: a `Proxy` in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from support.processes.proxy import Plan, Proxy


class BreakingProxy:
    """Use it as a context manager. Each of the next connections is cut after so many bytes of its answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._limits: Iterator[int] = iter(())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="breaking proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._proxy = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    async def _open(self) -> Proxy:
        return await Proxy(self._port, plan=lambda _: Plan(down=next(self._limits, None))).__aenter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut_after(self, *limits: int) -> None:
        """Cut the next connections so."""
        self._limits = iter(limits)

    @property
    def cuts(self) -> int:
        return self._proxy.cuts

    @property
    def url(self) -> str:
        return self._proxy.url.replace("redis://", "http://").removesuffix("/0")
