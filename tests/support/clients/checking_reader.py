"""A reader that believes nothing: it checks every event it gets against the run's log, and folds them."""

from __future__ import annotations

from typing import Any

from mainstem_shared.model import contents, cursors, events, jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from support.models.logs import RunLog


class Reader:
    """What one client has seen over all its connections; its cursor is where the next one continues."""

    def __init__(self, log: RunLog) -> None:
        self.log = log
        self.cursor: Cursor | None = None
        self.fold = contents.Content()
        self.types: list[str] = []
        self.ids: list[Cursor] = []
        self._data: list[bytes] = []

    @property
    def snapshots(self) -> int:
        return self.types.count(Type.SNAPSHOT)

    @property
    def finished(self) -> bool:
        return bool(self.types) and self.types[-1] == Type.FINISHED

    def take(self, cursor: Cursor, kind: str, data: bytes) -> None:
        """Take one event. (It may be here before the log knows that it wrote it: `check` compares later.)"""
        assert not self.finished, f"{kind} {cursor} came after run.finished"
        assert cursor > (self.cursor or cursors.START), f"{cursor} came after {self.cursor}"
        payload: dict[str, Any] = jsontext.loads(data)
        if kind in events.STATES:
            assert payload["text"] == events.text_of(payload["content"])
        self.fold.apply(kind, payload)
        self.cursor = cursor
        self.types.append(kind)
        self.ids.append(cursor)
        self._data.append(data)

    def check(self) -> None:
        """What was taken is the log, byte by byte, without a hole; only snapshots and resyncs bridge a range."""
        at = 0
        for cursor, kind, data in zip(self.ids, self.types, self._data, strict=True):
            if kind == Type.SNAPSHOT:
                at = sum(entry.cursor <= cursor for entry in self.log.entries)
                continue
            if kind == Type.RESYNC:
                at = sum(entry.cursor < cursor for entry in self.log.entries)
            expected = self.log.entries[at]
            assert (cursor, kind) == (expected.cursor, expected.type)
            assert data == events.presented(kind, expected.data)
            at += 1

    def check_end(self) -> None:
        """After the end, the reader's content is the run's."""
        self.check()
        assert self.finished
        assert self.fold.dump() == self.log.fold.dump()
