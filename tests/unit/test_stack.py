"""The supervisor's parts: cutting output into lines, writing it without ever blocking, backing off."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mainstem_api.stack import _children, _output
from mainstem_api.stack._children import Child, Command
from mainstem_api.stack._output import LineSplitter, Output
from support.waiting import wait_until, wait_until_async


def lines_of(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    return [line for piece in (*pieces, b"") for line in splitter.feed(piece)]


def test_lines_come_whole_however_the_bytes_were_cut():
    """A line, and a character, split over several reads is one line; the last needs no newline."""
    assert lines_of(b"fir", b"st\nsecond\r\n\nth\xc3", b"\xb6rd") == ["first", "second", "", "thörd"]


def test_a_line_without_end_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch):
    """A child that never writes a newline gets its output written in pieces; nothing of it is lost."""
    monkeypatch.setattr(_output, "_LONGEST_LINE", 10)
    assert "".join(lines_of(*[b"0123456"] * 10)) == "0123456" * 10


class PausedTerminal(io.StringIO):
    """Takes nothing until it is resumed."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed = threading.Event()

    def write(self, text: str) -> int:
        self.resumed.wait(10)
        return super().write(text)


def test_a_paused_terminal_costs_lines_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch):
    """Writing returns at once while the terminal takes nothing; afterwards it says how many lines are missing."""
    monkeypatch.setattr(_output, "_QUEUED_LINES", 5)
    terminal = PausedTerminal()
    output = Output(terminal)
    for number in range(100):
        output.line("worker1", f"line {number}")
    terminal.resumed.set()
    wait_until(lambda: "lines dropped" in terminal.getvalue(), description="the count of dropped lines")
    output.say("and on")
    output.close()
    written = terminal.getvalue().splitlines()
    assert written[0] == "worker1  │ line 0"
    assert written[-1] == "and on"


class ClosedPipe(io.StringIO):
    """Has no reader any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def test_a_reader_that_went_away_ends_nothing():
    """Output that nobody reads any more is discarded without an error."""
    output = Output(ClosedPipe())
    for _ in range(3):
        output.say("anybody there?")
    output.close()
    assert not output._thread.is_alive()


@pytest.fixture
def output() -> Iterator[tuple[Output, io.StringIO]]:
    stream = io.StringIO()
    output = Output(stream)
    yield output, stream
    output.close()


def child_of(output: Output, script: str) -> Child:
    command = Command(name="child", arguments=["/bin/sh", "-c", script])
    return Child(command, environment=lambda: {"PATH": os.environ["PATH"]}, output=output)


async def test_a_child_that_keeps_dying_is_started_with_growing_pauses(
    output: tuple[Output, io.StringIO], monkeypatch: pytest.MonkeyPatch
):
    """Each death doubles the pause up to the longest one, and says why the child ended."""
    monkeypatch.setattr(_children, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(_children, "LONGEST_PAUSE_S", 0.04)
    out, stream = output
    stopping = asyncio.Event()
    running = asyncio.create_task(child_of(out, "exit 3").keep_running(stopping, stop_timeout_s=1))
    await wait_until_async(lambda: stream.getvalue().count("exit code 3") >= 4, description="four deaths")
    stopping.set()
    await running
    pauses = [line.rsplit(" in ", 1)[1] for line in stream.getvalue().splitlines()]
    assert pauses[:4] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s"]


async def test_a_command_that_does_not_exist_is_tried_again(
    output: tuple[Output, io.StringIO], monkeypatch: pytest.MonkeyPatch
):
    """A command that cannot be started is reported and retried like one that died."""
    monkeypatch.setattr(_children, "FIRST_PAUSE_S", 0.01)
    out, stream = output
    stopping = asyncio.Event()
    child = Child(Command(name="child", arguments=["/nowhere"]), environment=dict, output=out)
    running = asyncio.create_task(child.keep_running(stopping, stop_timeout_s=1))
    await wait_until_async(lambda: stream.getvalue().count("cannot be started") >= 2, description="two tries")
    stopping.set()
    await running


async def test_a_child_that_ignores_sigterm_is_killed(output: tuple[Output, io.StringIO]):
    """After its time is up a child is killed, and its last words were written."""
    out, stream = output
    stopping = asyncio.Event()
    script = "trap 'echo not yet' TERM; echo up; while :; do sleep 0.05; done"
    running = asyncio.create_task(child_of(out, script).keep_running(stopping, stop_timeout_s=0.3))
    await wait_until_async(lambda: "up" in stream.getvalue(), description="the child")
    stopping.set()
    await running
    out.close()
    assert "not yet" in stream.getvalue()
    assert "did not end within 0.3 s: killed" in stream.getvalue()


def test_a_tethered_process_ends_with_whoever_holds_the_other_end():
    """When the writing end closes the process gets SIGTERM, and SIGKILL when it takes no notice."""
    program = (
        "import signal, sys, time\n"
        "from mainstem_api.stack import hold_tether\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
        "hold_tether(grace_s=0.2)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "MAINSTEM_TETHER_FD": str(reading)},
        pass_fds=[reading],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.close(writing)
        assert process.stdout.readline() == "asked\n"
        assert process.wait(10) == -signal.SIGKILL
