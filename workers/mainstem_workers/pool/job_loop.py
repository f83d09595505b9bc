"""`JobLoop` runs the asyncio pool's event loop in a thread; `background_loop` serves the other pools."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
#: Seconds that asyncio tasks left behind by abandoned jobs get to notice the end.
LEFTOVERS_TIMEOUT_S = 2.0


class JobLoop:
    """An event loop in one thread, started and stopped by the pool."""

    def __init__(self, initializer: Callable[[], None], finalizer: Callable[[], None]) -> None:
        self.context = contextvars.Context()
        self.thread = threading.Thread(target=self._main, name="mainstem-pool-loop", daemon=True)
        self._initializer = initializer
        self._finalizer = finalizer
        self._ready: Future[None] = Future()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "the pool has not started"
        return self._loop

    def start(self) -> None:
        self._loop = _new_event_loop()
        self.thread.start()
        self._ready.result(START_TIMEOUT_S)

    def stop(self, timeout: float) -> bool:
        """Stop the loop. False when its thread still runs after `timeout` seconds (something blocks it)."""
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout)
        return not self.thread.is_alive()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self._initializer()
        except BaseException as exc:  # noqa: BLE001 - raised where the pool starts
            self._ready.set_exception(exc)
            return
        self.context = contextvars.copy_context()
        self.loop.call_soon(self._ready.set_result, None)
        while not self._stopping:
            self._run()
        self._close()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # asyncio lets these through from any task or callback; one task must not end all others.
            logger.critical(
                "something on the pool's loop tried to exit", exc_info=True, extra={"action": "pool_exit"}
            )

    def _close(self) -> None:
        leftovers = asyncio.all_tasks(self.loop)
        for task in leftovers:
            task.cancel()
        if leftovers:
            self.loop.run_until_complete(asyncio.wait(leftovers, timeout=LEFTOVERS_TIMEOUT_S))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self._finalizer()
        self.loop.close()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Prefer uvloop, where it is installed: timers and sockets are most of what a token costs."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
