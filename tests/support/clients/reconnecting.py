"""A reader that drops its connection and comes back, to any gateway, and believes nothing it is told.

It speaks HTTP from the socket up. Every event must be the next one of the log; what it has folded at the
end must be what `run.finished` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from mainstem_shared.model import cursors, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations.ending import close_open_calls

SILENCE_S = 30.0
PAUSE_S = 0.1


class Reader:
    """One reader of one run: keeps its cursor and its fold over any number of connections."""

    def __init__(self, run_id: str, seed: int, *, silence_s: float = SILENCE_S) -> None:
        self.run_id = run_id
        self.random = random.Random(seed)
        self.cursor: Cursor | None = None
        self.fold = Content()
        self.seen: dict[Cursor, Entry] = {}
        self.connections = self.snapshots = self.resyncs = self.refusals = 0
        self.over = False
        self.check_text: Callable[[str], None] = lambda _: None
        self.on_action: Callable[[dict[str, Any]], None] = lambda _: None
        self._silence_s = silence_s

    async def follow(self, ports: Sequence[int]) -> None:
        """Read to the end over connections of random length; a gateway that is away is tried again."""
        while not self.over:
            port = self.random.choice(ports)
            try:
                async with asyncio.timeout(None) as patience:
                    await self.connect(port, patience, drop_after=self.random.randint(1, 50))
            except (OSError, TimeoutError):
                self.refusals += 1
                await asyncio.sleep(PAUSE_S)

    async def connect(self, port: int, patience: asyncio.Timeout, *, drop_after: int) -> None:
        """Read some events, then drop the connection without a word, as a closed lid does."""
        self._expect_news(patience)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        self.connections += 1
        last = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
        path = f"/v1/runs/{self.run_id}/events"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
        try:
            await self._answered(await reader.readline())
            await self._read(reader, patience, drop_after)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _expect_news(self, patience: asyncio.Timeout) -> None:
        patience.reschedule(asyncio.get_running_loop().time() + self._silence_s)

    async def _answered(self, status: bytes) -> None:
        code = status.split(b" ")[1] if b" " in status else b"none"
        assert code not in (b"204", b"400", b"404"), f"{self.run_id} at {self.cursor}: {status!r}"
        if code != b"200":
            raise ConnectionResetError(code)

    async def _read(self, reader: asyncio.StreamReader, patience: asyncio.Timeout, drop_after: int) -> None:
        event: dict[bytes, bytes] = {}
        while drop_after and (line := await reader.readline()):
            self._expect_news(patience)
            name, _, value = line.rstrip(b"\r\n").partition(b": ")
            if name in (b"id", b"event", b"data"):
                event[name] = value
            elif line == b"\n" and event:
                self.take(event)
                event, drop_after = {}, drop_after - 1
                if self.over:
                    return

    def take(self, event: dict[bytes, bytes]) -> None:
        """Take one event: it must be the next one."""
        assert not self.over, f"{self.run_id}: {event} after the end"
        entry = Entry(cursor=cursors.parse(event[b"id"]), type=event[b"event"].decode(), data=event[b"data"])
        assert entry.cursor not in self.seen, f"{self.run_id}: {entry.cursor} came twice"
        payload = jsontext.loads(entry.data)
        before = self.fold.text
        match entry.type:
            case Type.SNAPSHOT:
                self.snapshots += 1
                assert self.cursor is None or entry.cursor > self.cursor
            case Type.RESYNC:
                self.resyncs += 1
                assert payload["text"].startswith(before), "a repair lost what this reader has seen"
            case _ if self.cursor is not None:
                assert entry.follows(self.cursor), f"{self.run_id}: {entry.cursor} after {self.cursor}"
        if entry.type == Type.FINISHED:
            self.over = True
            assert before == payload["text"], f"{self.run_id}: what was read is not what the run is"
            if payload["reason"] != Reason.COMPLETED:
                close_open_calls(self.fold)
            assert self.fold.dump()["content"] == payload["content"]
        self.seen[entry.cursor] = entry
        self.cursor = entry.cursor
        self.fold.apply(entry.type, payload)
        if entry.cursor.is_control:
            self.check_text(self.fold.text)
        if entry.type == Type.APPROVAL_REQUIRED:
            self.on_action(payload["action"])
