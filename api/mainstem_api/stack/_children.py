"""A child process of the stack is started, read, restarted when it dies, and stopped here."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mainstem_api.stack._output import LineSplitter, Output

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
HEALTHY_AFTER_S = 30.0
"""A child that lived so long starts again after the first pause; one that keeps dying waits longer."""
_READ_BYTES = 64 * 1024
_LAST_WORDS_S = 1.0
"""How long a dead child's output is read on: a grandchild may hold the pipe open for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start. Descriptors are inherited under the same numbers."""

    name: str
    arguments: Sequence[str]
    descriptors: Sequence[int] = ()


class Child:
    """Keeps one command running until it is told to stop."""

    def __init__(
        self, command: Command, *, environment: Callable[[], Mapping[str, str]], output: Output
    ) -> None:
        self.name = command.name
        self._command = command
        self._environment = environment
        self._output = output
        self._process: Process | None = None
        self._pause_s = FIRST_PAUSE_S

    async def keep_running(self, stopping: asyncio.Event, *, stop_timeout_s: float) -> None:
        """Run the command, again and again, until `stopping` is set; then end it and return."""
        while not stopping.is_set():
            started = time.monotonic()
            ended = await self._run_once(stopping, stop_timeout_s=stop_timeout_s)
            if stopping.is_set():
                return
            pause_s = self._next_pause(time.monotonic() - started)
            self._output.line(self.name, f"{ended}; starting it again in {pause_s:g} s")
            await set_within(stopping, pause_s)

    def signal(self, number: signal.Signals) -> None:
        """Signal the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _next_pause(self, lived_s: float) -> float:
        if lived_s >= HEALTHY_AFTER_S:
            self._pause_s = FIRST_PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s

    async def _run_once(self, stopping: asyncio.Event, *, stop_timeout_s: float) -> str:
        try:
            process = self._process = await self._start()
        except OSError as error:
            return f"cannot be started: {error}"
        reading = asyncio.create_task(self._read(process))
        try:
            await _either(process.wait(), stopping.wait())
            if stopping.is_set():
                await self._end(stop_timeout_s)
            code = await process.wait()
        finally:  # also when the supervisor itself fails
            self.signal(signal.SIGKILL)
            await asyncio.wait([reading], timeout=_LAST_WORDS_S)
            reading.cancel()
        return f"ended with {_describe(code)}"

    async def _start(self) -> Process:
        # A terminal's Ctrl-C reaches the whole group, and a child that still imports its modules would end in
        # a traceback. Held back here it is inherited as held back; the child lets it in when it can take it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return await asyncio.create_subprocess_exec(
                *self._command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                env=dict(self._environment()),
                pass_fds=self._command.descriptors,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def _end(self, timeout_s: float) -> None:
        # The terminal's Ctrl-C may have reached the child already; SIGTERM on top is taken calmly by all.
        assert self._process is not None
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._output.line(self.name, f"did not end within {timeout_s:g} s: killed")
            self.signal(signal.SIGKILL)

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        lines = LineSplitter()
        data = b"start"
        while data:
            data = await process.stdout.read(_READ_BYTES)
            for line in lines.feed(data):
                self._output.line(self.name, line)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


async def _either(*waits: Awaitable[object]) -> None:
    """Return as soon as one of them has; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the event, but no longer than that; tell whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    return event.is_set()
