"""Prints every line of every child under its name, in a colour of its own, without ever blocking.

Writing happens in a thread behind a bounded queue. A terminal that is paused, or a pager nobody scrolls, must
cost lines and never hold up a worker that logs.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

_QUEUED_LINES = 10_000
_LONGEST_LINE = 64 * 1024
"""A line longer than this is written in pieces, so that a child cannot fill our memory without a newline."""
_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")


class Output:
    """Lines from many processes, written in the order they came in. Nothing here blocks or raises."""

    def __init__(self, stream: TextIO | None = None, *, width: int = 8) -> None:
        self._stream = stream or sys.stdout
        self._coloured = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._width = width
        self._colours = itertools.cycle(_COLOURS)
        self._prefixes: dict[str, str] = {}
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUED_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._thread.start()

    def line(self, name: str, text: str) -> None:
        """Write one line of a child's output."""
        prefix = self._prefixes.get(name)
        if prefix is None:
            prefix = self._prefixes[name] = self._prefix(name)
        self._put(f"{prefix}{text}\n")

    def say(self, text: str) -> None:
        """Write a line of the supervisor's own, without a prefix."""
        self._put(f"{text}\n")

    def close(self, timeout_s: float = 2) -> None:
        """Write out what is queued, unless nobody reads it."""
        self._put(None)
        self._thread.join(timeout_s)

    def _prefix(self, name: str) -> str:
        plain = f"{name:<{self._width}} │ "
        return f"\x1b[{next(self._colours)}m{plain}\x1b[0m" if self._coloured else plain

    def _put(self, line: str | None) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _write_all(self) -> None:
        readable = True
        while (line := self._lines.get()) is not None:
            if not readable:
                continue
            if self._dropped:
                line += f"… {self._dropped} lines dropped: the terminal did not take them\n"
                self._dropped = 0
            try:
                self._stream.write(line)
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the reader is gone; the stack goes on
                readable = False


class LineSplitter:
    """Cuts a child's bytes into lines; what is not ended yet is kept."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """Take the next bytes and yield the lines that are complete; no bytes mean the end."""
        *lines, rest = (self._rest + data).split(b"\n")
        if rest and (not data or len(rest) > _LONGEST_LINE):
            lines.append(rest)
            rest = b""
        self._rest = rest
        for line in lines:
            yield line.rstrip(b"\r").decode(errors="replace")
