"""A tether is a pipe that ends the stack's children when their supervisor is gone, however it ended.

Only the supervisor holds the writing end, so the kernel closes it even after SIGKILL and every child reads
the end of the file. Unlike Linux's parent-death signal this works everywhere, is not tied to the thread that
forked, and lets a worker drain before it goes. The embedded server has no tether: it is to be adopted.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import TracebackType
from typing import Self

TETHER_VARIABLE = "MAINSTEM_TETHER_FD"


class Tether:
    """The supervisor's side. Closing it ends whoever is still tied to it."""

    def __init__(self) -> None:
        self.reading_end, self._writing_end = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.reading_end)
        os.close(self._writing_end)


def hold_tether(*, grace_s: float) -> None:
    """Tie this process to the supervisor that started it, if one did.

    When that is gone, the process gets SIGTERM as if somebody had stopped it, and SIGKILL if it has not
    ended `grace_s` later.
    """
    value = os.environ.pop(TETHER_VARIABLE, "")
    if not value.isdecimal():
        return
    descriptor = int(value)
    os.set_inheritable(descriptor, False)  # processes of our own are ours to end
    threading.Thread(target=_wait, args=(descriptor, grace_s), name="tether", daemon=True).start()


def _wait(descriptor: int, grace_s: float) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)
