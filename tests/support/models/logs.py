"""Runs written by a test's own hand: real verbs, and entries with explicit ids as the writer sends them.

The log remembers every entry it ever had, also those that were trimmed since, and the fold over them.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Self

from mainstem_shared import transitions
from mainstem_shared.model import contents, cursors, events, ids, jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.specs import spec
from support.models.verb_calls import without_gap

TTL_MS = 600_000
_numbers = itertools.count()


class RunLog:
    """One run and its log."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.keys = keys.run(run_id)
        self.entries: list[Entry] = []
        self.fold = contents.Content()
        self.control = transitions.Control(run_id=run_id, epoch=1, owner="")
        self.words = 0
        self.lost: set[Cursor] = set()

    @classmethod
    async def start(
        cls, store: Store, *, user_id: str = "local", tenant: str = "default", thread_id: str | None = None
    ) -> Self:
        """Create a queued run on a thread of its own."""
        thread = thread_id or f"thread-{next(_numbers)}"
        run_id = ids.run_id(tenant, thread, ids.uuid7())
        started = await transitions.start(
            store,
            spec(
                run_id,
                thread_id=thread,
                user_id=user_id,
                tenant=tenant,
                metadata={"n": 1},
                created_ms=now_ms(),
            ),
            b"{}",
            nonce=without_gap(),
            if_active="reject",
            live_ttl_ms=TTL_MS,
            thread_ttl_ms=TTL_MS,
        )
        assert isinstance(started, transitions.Started)
        log = cls(store, run_id)
        await log.learn()
        return log

    @property
    def top(self) -> Cursor:
        return self.entries[-1].cursor

    async def learn(self) -> None:
        """Take in what the verbs wrote."""
        after = self.top if self.entries else cursors.START
        found: Any = await self.store.client.xrange(self.keys.log, f"({after}", "+")
        for raw_id, fields in found:
            self._took(events.entry(raw_id, fields))

    def _took(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.fold.apply_entry(entry)

    async def claim(self, owner: str = "w1") -> None:
        nonce = without_gap()
        claimed = await transitions.claim(
            self.store, self.run_id, nonce=nonce, owner=owner, task_id="t", live_ttl_ms=TTL_MS
        )
        assert isinstance(claimed, transitions.Claimed)
        self.control = transitions.Control(run_id=self.run_id, epoch=claimed.epoch, owner=owner, nonce=nonce)
        await self.learn()

    async def append(self, *written: tuple[str, dict[str, Any]]) -> None:
        """Append events in one go, as one group of the writer is."""
        cursor = max(self.top, Cursor(self.control.epoch, 0))
        made: list[Entry] = []
        async with self.store.client.pipeline(transaction=True) as pipe:
            for kind, payload in written:
                cursor = cursor.next()
                data = jsontext.dumps(payload)
                pipe.xadd(self.keys.log, {events.field(kind): data}, id=str(cursor), nomkstream=True)
                made.append(Entry(cursor=cursor, type=kind, data=data))
            await pipe.execute()
        for entry in made:
            self._took(entry)

    async def say(self, count: int = 1) -> None:
        """Append words of text, one event each."""
        said = range(self.words, self.words + count)
        self.words += count
        last = self.fold.parts[-1] if self.fold.parts else None
        goes_on = isinstance(last, contents.TextPart) and last.kind == "text"
        part = len(self.fold.parts) - goes_on
        await self.append(
            *[(Type.MESSAGE_DELTA, {"part": part, "text": f"w{k}" if k == 0 else f" w{k}"}) for k in said]
        )

    async def snapshot(self) -> None:
        """Store a snapshot at the top, and trim to the one before."""
        stored = await transitions.snapshot(
            self.store,
            self.control,
            cursor=self.top,
            state=jsontext.dumps(self.fold.dump()),
            live_ttl_ms=TTL_MS,
        )
        assert stored

    async def handover(self) -> None:
        """Give the run back to the queue."""
        queued = await transitions.handover(
            self.store,
            self.control,
            nonce=without_gap(),
            top=self.top,
            resume_as="run.restarted",
            cause="shutdown",
            state=jsontext.dumps(self.fold.dump()),
            live_ttl_ms=TTL_MS,
        )
        assert isinstance(queued, int)
        await self.learn()

    async def resync(self) -> None:
        """Write the whole fold as a new epoch."""
        nonce = without_gap()
        epoch = await transitions.resync(
            self.store,
            self.control,
            nonce=nonce,
            state=jsontext.dumps(self.fold.dump()),
            live_ttl_ms=TTL_MS,
        )
        assert isinstance(epoch, int)
        self.control = dataclasses.replace(self.control, epoch=epoch, nonce=nonce)
        await self.learn()

    async def lose_tail(self, count: int) -> None:
        """Drop acknowledged entries, as a fail-over to a replica that lags does."""
        self.lost = {e.cursor for e in self.entries[-count:]}
        await self.store.client.xdel(self.keys.log, *map(str, self.lost))

    def forget_lost(self) -> None:
        """After a resync: what was lost before it is not the log's any more."""
        self.entries = [e for e in self.entries if e.cursor not in self.lost]

    async def finish(self, reason: Reason = Reason.COMPLETED) -> None:
        finished = await transitions.finish(
            self.store,
            self.control,
            nonce=without_gap(),
            top=self.top,
            reason=reason,
            state=self.fold.dump(),
            error=None,
            retention_ms=TTL_MS,
            compact_after_ms=60_000,
        )
        assert isinstance(finished, transitions.Finished)
        await self.learn()

    async def compact(self) -> None:
        assert await transitions.compact(self.store, self.run_id)
