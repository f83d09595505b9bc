"""A history: everything that happened, in order, as one hash; with `trace`, as lines too."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from simulation.timeline import Timeline

LONGEST: Final = 600
"""Characters of a line of the trace."""


class History:
    """What happened so far. Two histories with one hash are byte-identical."""

    def __init__(self, timeline: Timeline, *, trace: bool = False) -> None:
        self._timeline = timeline
        self._digest = hashlib.blake2b(digest_size=16)
        self.trace: list[str] | None = [] if trace else None
        self.events = 0

    def note(self, what: str, who: str, *about: Any) -> None:
        """Record one happening."""
        line = f"{self._timeline.now:.9f} {what} {who} {about!r}\n"
        self.events += 1
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line if len(line) < LONGEST else f"{line[:200]} … {line[-LONGEST:]}")

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()
