"""The event loop of a simulated process, and its threads, which are greenlets; both go by the timeline.

Timers jump, nothing blocks, connections are the simulated network's. What a thread would wait for, it waits for
on the timeline, while everything else goes on.
"""

# asyncio's loop keeps timers and ready callbacks under private names, which all releases share.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable
from typing import Any, Final, Protocol

import greenlet

from simulation.timeline import Process, Timer

_RESOLUTION: Final = 1e-9


class Connector(Protocol):
    """What opens connections for a loop: `network.Network`."""

    async def connect(self, process: Process, host: str, factory: Callable[[], Any]) -> Any: ...


class VirtualLoop(asyncio.BaseEventLoop):
    """A process's event loop. `step` runs what is ready; the timeline calls it when something is due."""

    def __init__(self, process: Process, network: Connector) -> None:
        super().__init__()
        self._process = process
        self._network = network
        self._due: float | None = None
        self._timer: Timer | None = None
        process.after = self.schedule

    def time(self) -> float:
        return self._process.timeline.now

    def step(self) -> None:
        """Run the callbacks that are ready now, once."""
        self._due = self._timer = None
        ready, scheduled = self._ready, self._scheduled
        end = self._process.timeline.now + _RESOLUTION
        while scheduled and scheduled[0]._when <= end:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        events._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)

    def schedule(self) -> None:
        """Have the timeline step this loop when it has something to do."""
        timeline = self._process.timeline
        scheduled = self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if self._ready:
            due = timeline.now
        elif scheduled:
            due = scheduled[0]._when
        else:
            return
        if self._due is not None and self._due <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = timeline.at(due, self.step, self._process)

    # -- what a loop must have

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Nothing: cancelled timers leave when they are due."""

    def _write_to_self(self) -> None:
        """Nothing: whatever happens in a process is followed by `schedule`."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a thread."""
        done = self.create_future()

        def body() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                self._settle(done, error=error)
            else:
                self._settle(done, result)

        Thread(target=body).start()
        return done

    @staticmethod
    def _settle(done: asyncio.Future[Any], result: Any = None, *, error: BaseException | None = None) -> None:
        if not done.done():
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        return await self._network.connect(self._process, str(host), protocol_factory)

    def is_running(self) -> bool:
        return events._get_running_loop() is self


# -- threads


def process_of_caller() -> Process:
    """Return the process whose code runs now."""
    found = _timeline_of().current
    assert found is not None, "only processes have threads"
    return found


_timelines: list[Any] = []
"""The timeline that runs now, last."""


def _timeline_of() -> Any:
    return _timelines[-1]


def begin(timeline: Any) -> None:
    """Make a timeline the one that threads go by."""
    _timelines.append(timeline)


def end() -> None:
    """Go back to the one before."""
    _timelines.pop()


def wait(process: Process, timeout_s: float | None, register: Callable[[Callable[[], None]], Any]) -> bool:
    """Let the calling thread wait; `register` gets what wakes it. Returns whether it was woken in time."""
    me = greenlet.getcurrent()
    hub = me.parent
    assert hub is not None, "only a thread can wait"
    state = {"open": True, "woken": False}

    def go(*, woken: bool) -> None:
        if state["open"]:
            state["open"], state["woken"] = False, woken
            me.switch()

    def wake() -> None:
        process.timeline.at(process.timeline.now, lambda: go(woken=True), process)

    register(wake)
    if timeout_s is not None:
        process.timeline.after(max(0.0, timeout_s), lambda: go(woken=False), process)
    hub.switch()
    return state["woken"]


class Thread:
    """A thread of a simulated process: what the product makes of `threading.Thread`."""

    def __init__(
        self, *, target: Callable[..., Any], name: str = "", daemon: bool = True, args: tuple[Any, ...] = ()
    ) -> None:
        self.name = name
        self._target, self._args = target, args
        self._ended = False
        self._joining: list[Callable[[], None]] = []
        self._process = process_of_caller()

    def start(self) -> None:
        self._process.timeline.at(self._process.timeline.now, self._begin, self._process)

    def _begin(self) -> None:
        greenlet.greenlet(self._main).switch()

    def _main(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._ended = True
            for wake in self._joining:
                wake()

    def join(self, timeout: float | None = None) -> None:
        if not self._ended:
            wait(self._process, timeout, self._joining.append)

    def is_alive(self) -> bool:
        return not self._ended


class Event:
    """An event of a simulated process: what it makes of `threading.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set and (timeout is None or timeout > 0):
            wait(process_of_caller(), timeout, self._waiting.append)
        return self._set


class Threading:
    """What simulated code finds as the module `threading`."""

    Thread = Thread
    Event = Event

    @staticmethod
    def get_ident() -> int:
        return process_of_caller().number
