"""Locks files advisorily; the kernel releases a lock with the last process that holds it.

`flock` belongs to the open file, not to the process: a child that inherits the descriptor holds the lock
too. That is how the server's lock outlives whoever started the server, and never the server itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


class FileLock:
    """One holder at a time. The descriptor is close-on-exec: children inherit it only if it is passed on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file that carries the lock, to be passed to a child."""
        assert self._descriptor is not None, "acquire the lock first"
        return self._descriptor

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_flock(descriptor, fcntl.LOCK_EX):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def close(self) -> None:
        """Let go of it. A child that inherited the lock keeps it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool:
    """Tell whether anybody holds the lock.

    Looking takes a shared lock for a moment, so whoever acquires tries more than once.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
