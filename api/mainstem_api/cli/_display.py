"""Displays a run while it happens: a live status line on a terminal, bare text in a pipe, or JSON."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from mainstem_api.cli._following import Event
from mainstem_api.cli._progress import Progress
from mainstem_shared.model.events import Type

STYLES: Final = {
    "queued": "yellow",
    "running": "cyan",
    "requires_action": "magenta",
    "succeeded": "green",
    "failed": "red",
    "aborted": "bright_black",
}
MARKS: Final = {"succeeded": "✓", "failed": "✗", "aborted": "■"}

# What a model says must not move the cursor or colour the terminal.
_CONTROLS: Final = {code: "�" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey."""
    return text.translate(_CONTROLS)


class Display(Protocol):
    """Shows events; a context manager, whose end leaves the terminal as it should be."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, event: Event) -> None:
        """Show an event, and note it in the progress."""
        ...

    def trouble(self, why: str | None) -> None:
        """Show that events are waited for, or (None) that they flow again."""
        ...

    def outcome(self) -> None:
        """Show how the run ended."""
        ...


def choose(progress: Progress, *, as_json: bool) -> Display:
    """Return the display that suits where stdout goes."""
    if as_json:
        return JsonLines(progress)
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(progress, console)
    return Piped(progress)


class Piped:
    """Exactly the text on stdout, and a newline at its end; whatever else there is to say on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._trouble: str | None = None
        self._wrote = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (self._wrote and not isinstance(error, BrokenPipeError)):
            self._write("\n")

    def show(self, event: Event) -> None:
        status = self._progress.status
        text, over = self._progress.take(event)
        if over:
            self._say("the text so far was replaced; it follows from the beginning")
            self._write("\n" if self._wrote else "")
        self._write(text)
        if self._progress.status != status and self._progress.reason is None:
            self._say(self._progress.status + self._progress.remedy)

    def trouble(self, why: str | None) -> None:
        if why is not None and self._trouble is None:
            self._say(f"reconnecting: {why}")
        elif why is None and self._trouble is not None:
            self._say("connected again")
        self._trouble = why

    def outcome(self) -> None:
        self._say(self._progress.outcome)

    def _write(self, text: str) -> None:
        if text:
            self._wrote = True
            # Halves of surrogate pairs cannot be written; nothing else is touched.
            sys.stdout.buffer.write(text.encode("utf-8", "replace"))
            sys.stdout.buffer.flush()

    def _say(self, words: str) -> None:
        print(f"{self._progress.run_id}: {words}", file=sys.stderr, flush=True)


class JsonLines(Piped):
    """Every event as one line of JSON on stdout."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(self, event: Event) -> None:
        self._progress.take(event)
        line = {"cursor": str(event.cursor), "type": event.type, "data": event.data}
        print(json.dumps(line, separators=(",", ":")), flush=True)

    def outcome(self) -> None:
        return  # the last line says it


class Terminal:
    """The text as it comes, above a status line that stays at the bottom until the end.

    Complete rows are printed for good; the last, open row is part of what is drawn anew.
    """

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._row = Text()  # replaced, never changed: the refreshing thread reads it
        self._voice = ""  # the style of what was said last
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=12, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rest, self._row = self._row, Text()
        self._live.stop()
        if rest:
            self._console.print(rest)

    def show(self, event: Event) -> None:
        text, over = self._progress.take(event)
        if over:
            self._append("\n— replaced —\n", "yellow")
        self._speak(text, "")
        if event.type == Type.REASONING_DELTA:
            self._speak(event.data["text"], "dim italic")
        elif event.type == Type.STEP_STARTED and event.data["kind"] == "tool_call":
            self._append(f"\n⚙ {event.data['name']} {_brief(event.data.get('arguments'))}\n", "dim")

    def trouble(self, why: str | None) -> None:
        self._progress.trouble = why

    def outcome(self) -> None:
        status = self._progress.status
        line = Text(f"{MARKS.get(status, '·')} {self._progress.outcome}", STYLES.get(status, ""))
        self._console.print(line.append(f" · {self._progress.run_id}", "dim"), soft_wrap=True)

    def _speak(self, text: str, style: str) -> None:
        """Append text or reasoning; each begins on a row of its own."""
        if text and style != self._voice:
            self._append("\n" if self._row else "")
            self._voice = style
        self._append(text, style)

    def _append(self, text: str, style: str = "") -> None:
        if not text:
            return
        row = self._row.copy().append(printable(text), style)
        *complete, row = row.split("\n", allow_blank=True)
        *wrapped, row = row.wrap(self._console, self._console.width) or [row]
        self._row = row
        for line in (*complete, *wrapped):
            self._console.print(line)

    def _render(self) -> RenderableType:
        self._spinner.update(text=self._status_line())
        return Group(self._row, self._spinner) if self._row else self._spinner

    def _status_line(self) -> Text:
        progress = self._progress
        status = progress.status
        line = Text(status.replace("_", " "), STYLES.get(status, ""))
        line.append(f" · {progress.elapsed_s:.1f} s · {progress.amount} · {progress.cursor}", "dim")
        line.append(progress.remedy, "dim")
        if progress.trouble:
            line.append(f" · reconnecting: {progress.trouble}", "yellow")
        line.truncate(self._console.width - 2, overflow="ellipsis")  # beside the spinner
        return line


def _brief(arguments: Any) -> str:
    text = json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else ""
    return text if len(text) <= 80 else f"{text[:79]}…"
