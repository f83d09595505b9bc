"""A wall clock of its own for a real process: wrong from the start, or set while it runs."""

from __future__ import annotations

import struct
from pathlib import Path

from support.paths import TESTS


class WallClock:
    """What processes that are started with `env` take for the time: so many seconds ahead of this machine's."""

    def __init__(self, path: Path, *, ahead_s: float = 0) -> None:
        self._path = path
        path.write_bytes(struct.pack("d", ahead_s))

    @property
    def env(self) -> dict[str, str]:
        return {
            "WALL_CLOCK": str(self._path),
            "PYTHONPATH": f"{TESTS / 'support' / 'shifted_clock'}:{TESTS}",
        }

    def set_ahead(self, seconds: float) -> None:
        """Make the clock step."""
        with self._path.open("r+b", buffering=0) as file:
            file.write(struct.pack("d", seconds))
