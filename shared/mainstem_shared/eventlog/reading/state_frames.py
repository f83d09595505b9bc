"""A shared state encodes a run's state into frames once for all readers; `FollowedRun` joins the reads.

A state has up to 8 MB, and a finished run's readers get it twice: as a snapshot, and in the final event. Many
readers that come together (a gateway stopped, a page was shared) would hold a copy each.
"""

from __future__ import annotations

import asyncio

from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.eventlog.reading.frames import Frame, chain
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.transitions import State


class SharedState:
    """A state and the frames that stand for it. Belongs to one event loop."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._frames: dict[bool, list[Frame]] = {}
        self._making = asyncio.Lock()

    async def frames_beyond(self, cursor: Cursor) -> list[Frame]:
        """Return what takes a reader from a cursor to the state; none if the log is missing."""
        stored = self.state.snapshot_cursor
        from_stored = stored is not None and stored > cursor and not self.state.status.is_terminal
        async with self._making:
            if from_stored not in self._frames:
                large = run_states.size(self.state) > run_states.LARGE
                make = self._from_stored if from_stored else self._from_top
                self._frames[from_stored] = await asyncio.to_thread(make) if large else make()
        return self._frames[from_stored].copy()  # readers give frames away as they send them

    def _from_top(self) -> list[Frame]:
        if self.state.status.is_terminal:
            last = run_states.final_entry(self.state)
            before = run_states.snapshot_of_final(last)
            return [Frame(entry) for entry in (before, last) if entry is not None]
        if self.state.top == cursors.START:
            return []
        return [Frame(run_states.snapshot_of_top(self.state))]

    def _from_stored(self) -> list[Frame]:
        stored = self.state.snapshot_cursor
        assert stored is not None
        snapshot = run_states.snapshot_entry(stored, self.state.snapshot_state)
        return [Frame(snapshot), *chain(stored, self.state.entries)]
