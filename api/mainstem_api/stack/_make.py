"""Notices that the `make` process that started the stack was told to stop.

`make` forwards SIGTERM. SIGINT it does not: it trusts that the terminal sent it to the whole group, and waits
for us; so `kill -INT` of make alone would hang for ever. Killed outright it cannot tell us anything either.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

_SIGINT_BIT: Final = 1 << (signal.SIGINT - 1)


class Make:
    """The `make` that is our parent."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._caught = _caught_signals(pid)

    @classmethod
    def parent(cls) -> Make | None:
        """Return it, if our parent is one (and the system has a /proc to look into)."""
        pid = os.getppid()
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return None
        return cls(pid) if "MAKELEVEL" in os.environ and name in {"make", "gmake"} else None

    def has_given_up(self) -> bool:
        """Tell whether it is gone, or was interrupted and waits for us."""
        if os.getppid() != self._pid:
            return True
        # The first thing make does with a fatal signal is to restore its default action. In the background
        # of a shell without job control it never catches SIGINT, so that is no sign there.
        return bool(self._caught & ~_caught_signals(self._pid) & _SIGINT_BIT)


def _caught_signals(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    caught = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return int(next(caught, "0"), 16)
