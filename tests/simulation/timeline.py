"""The timeline of a simulation: one heap of what happens when, on one thread. Nothing here waits for real time.

Everything that happens is a callback of a process, or of nobody (the network, the store, faults). A process may
be paused, so that what happens to it waits, or dead, so that nothing does any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any, Final

BEGIN_S: Final = 1_800_000_000.0
"""The time at which every history begins, in seconds since the epoch."""


SPIN_S: Final = 0.05
SPIN_STEPS: Final = 50_000
"""So many steps within SPIN_S: somebody does the same for ever, and time does not go on."""


class SpinningError(Exception):
    """Something happens over and over without time going on."""


class Timer:
    """A callback that is due; `cancel` drops it."""

    __slots__ = ("call", "process")

    def __init__(self, process: Process | None, call: Callable[[], Any]) -> None:
        self.process = process
        self.call: Callable[[], Any] | None = call

    def cancel(self) -> None:
        self.call = None


class Timeline:
    """Virtual time, and all that is due. `seed` decides about everything that is random."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        """Seconds since the beginning."""
        self.steps = 0
        self.current: Process | None = None
        self._due: list[tuple[float, int, Timer]] = []
        self._made = 0
        self._mark = (0.0, 0)

    def random(self, name: str) -> Random:
        """Return a stream of random numbers of its own: what one part draws changes nothing for others."""
        return Random(f"{self.seed}/{name}")

    @property
    def wall_s(self) -> float:
        """The true time in seconds since the epoch."""
        return BEGIN_S + self.now

    def at(self, when: float, call: Callable[[], Any], process: Process | None = None) -> Timer:
        """Have something happen at a time, after all that was to happen then before."""
        timer = Timer(process, call)
        self._made += 1
        heapq.heappush(self._due, (max(when, self.now), self._made, timer))
        return timer

    def after(self, delay_s: float, call: Callable[[], Any], process: Process | None = None) -> Timer:
        """Have something happen after a while."""
        return self.at(self.now + delay_s, call, process)

    def run(self, until: float) -> None:
        """Let everything happen that is due until then.

        Raises:
            SpinningError: time does not go on.
        """
        due = self._due
        while due and due[0][0] <= until:
            when, _, timer = heapq.heappop(due)
            call, process = timer.call, timer.process
            if call is None:
                continue
            self.now = when
            self.steps += 1
            if when > self._mark[0] + SPIN_S:
                self._mark = (when, self.steps)
            elif self.steps > self._mark[1] + SPIN_STEPS:
                raise SpinningError(f"at {when:.3f} s")
            if process is None:
                call()
            elif process.paused_until > when:
                self._made += 1  # in the order in which it was due
                heapq.heappush(due, (process.paused_until, self._made, timer))
            elif process.is_alive:
                process.enter(call)
        self.now = max(self.now, until)


class Process:
    """One process of the fleet: its clock, its randomness, and what it keeps in module variables."""

    def __init__(self, timeline: Timeline, name: str, *, number: int) -> None:
        self.timeline = timeline
        self.name = name
        self.number = number
        self.is_alive = True
        self.paused_until = 0.0
        self.clock_ahead_s = 0.0
        """How far its machine's wall clock is ahead of the true time."""
        self.random = timeline.random(name)
        self.on_death: list[Callable[[], None]] = []
        self.kept: dict[str, Any] = {}
        """Module variables of this process (`seams`)."""
        self.switch: Callable[[Process], None] = lambda _: None
        """Called when another process ran before."""
        self.after: Callable[[], None] = lambda: None
        """Called when something happened in it: its loop may have more to do."""

    @property
    def wall_s(self) -> float:
        """What this machine's clock shows."""
        return self.timeline.wall_s + self.clock_ahead_s

    def enter(self, call: Callable[[], Any]) -> None:
        """Have something happen in this process."""
        timeline = self.timeline
        if timeline.current is not self:
            self.switch(self)
            timeline.current = self
        call()
        self.after()

    def pause(self, seconds: float) -> None:
        """Let it stand still: a garbage collection, SIGSTOP, a machine that is moved."""
        self.paused_until = max(self.paused_until, self.timeline.now + seconds)

    def kill(self) -> None:
        """End it at once: none of its code runs any more."""
        if self.is_alive:
            self.is_alive = False
            for call in self.on_death:
                call()
