"""Accumulates what the status line shows of a run: its text so far, and its figures."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_api.cli._following import Event
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Status

_STATUS: Final[dict[str, Status]] = {
    Type.CREATED: Status.QUEUED,
    Type.QUEUED: Status.QUEUED,
    Type.STARTED: Status.RUNNING,
    Type.RESUMED: Status.RUNNING,
    Type.RESTARTED: Status.RUNNING,
    Type.APPROVAL_REQUIRED: Status.REQUIRES_ACTION,
}


@dataclass(kw_only=True)
class Progress:
    """A run as its events tell it. `text` starts where the follower's first cursor stood."""

    run_id: str
    status: str = Status.QUEUED
    reason: str | None = None
    error: dict[str, Any] | None = None
    usage: dict[str, int] | None = None
    cursor: Cursor = cursors.START
    text: str = ""
    trouble: str | None = None
    begun: float = field(default_factory=time.monotonic)
    _begun_late: bool = field(init=False)

    def __post_init__(self) -> None:
        self._begun_late = self.cursor != cursors.START

    def take(self, event: Event) -> tuple[str, bool]:
        """Note an event; return the text to show for it, and whether that starts over from the beginning."""
        before, self.cursor = self.cursor, event.cursor
        self.status = _STATUS.get(event.type) or self.status
        if event.type == Type.USAGE:
            self.usage = event.data
        elif event.type == Type.FINISHED:
            self.status = event.data["status"]
            self.reason, self.error = event.data["reason"], event.data["error"]
        if event.replaces:
            self.usage = event.data.get("usage") or self.usage
            return self._replace(event, before)
        if event.type == Type.MESSAGE_DELTA:
            self.status = Status.RUNNING  # whatever was missed
            self.text += event.data["text"]
            return event.data["text"], False
        return "", False

    def _replace(self, event: Event, before: Cursor) -> tuple[str, bool]:
        if self._begun_late and event.type == Type.FINISHED and event.follows(before):
            return "", False  # nothing came between; what stood before our first cursor is not ours to show
        known, self.text = self.text, event.text
        late, self._begun_late = self._begun_late, False
        if not late and self.text.startswith(known):
            return self.text[len(known) :], False
        return self.text, True

    @property
    def remedy(self) -> str:
        """What to do about a run that waits for a human."""
        waits = self.status == Status.REQUIRES_ACTION
        return f" · decide with: mainstem resume {self.run_id}" if waits else ""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def amount(self) -> str:
        """How much came so far: tokens once the engine reports them, words before."""
        tokens = (self.usage or {}).get("output_tokens")
        if tokens:
            about = "about " if (self.usage or {}).get("estimated") else ""
            return about + _count(tokens, "token")
        return _count(len(self.text.split()), "word")

    @property
    def outcome(self) -> str:
        """The end in one line."""
        words = f"{self.status} in {self.elapsed_s:.1f} s · {self.amount}"
        if self.error:
            return f"{words} · {self.error['code']}: {self.error['message']}"
        return words if self.reason in (None, "completed") else f"{words} · {self.reason}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
