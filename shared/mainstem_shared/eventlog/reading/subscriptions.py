"""A subscription takes one reader through a run's events, from its cursor to the end, without hole or repeat.

A subscription reads pages of the log itself until it has caught up with its followed run, then lives on what
the run's tail connection reads for all subscriptions. Whatever goes wrong there (a full queue, a hole, a log
that lost its tail) sends it back to reading pages; a range that is gone is bridged by a snapshot. Made by
`tailer.Tailer.subscribe`.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import Final, Protocol, Self

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading.frames import Batch, Frame, chain
from mainstem_shared.eventlog.reading.state_frames import SharedState
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Spec
from mainstem_shared.store.client import Store

PATIENCE_S: Final = 30.0
"""How long readers wait for an unavailable store before they are told."""
QUEUE_FRAMES: Final = 1000
QUEUE_BYTES: Final = 1024 * 1024
"""What may wait for a slow reader; beyond it the queue is dropped and the log is read again."""
PAUSE_S: Final = 0.05
"""Between two looks at a log that is not in order yet."""


class End(StrEnum):
    """Why a subscription ended."""

    FINISHED = "finished"
    """After `run.finished`: the only end after which there is nothing more to come."""
    GONE = "gone"
    """The run was deleted, or its retention is over."""
    CLOSED = "closed"
    """This end was closed: the reader left, or the process stops serving. The run goes on."""


class LiveSource(Protocol):
    """What a subscription asks of its followed run (`followed_runs.FollowedRun`)."""

    run_id: str
    cursor: Cursor | None

    async def attach(self, cursor: Cursor) -> None: ...
    async def read_state(self) -> SharedState | transitions.Gone: ...
    def rewind(self, top: Cursor) -> None: ...


class Subscription:
    """An asynchronous iterator over batches of frames. Cancelling a wait for the next batch loses nothing.

    After the iteration `end` says why it ended. Not for several consumers at once.
    """

    def __init__(self, store: Store, followed: LiveSource, cursor: Cursor) -> None:
        self.cursor = cursor
        """The last frame handed out, or about to be: what the next one must continue."""
        self.end: End | None = None
        self._store = store
        self._followed = followed
        self._spec: Spec | None = None
        self._ready: list[Frame] = []
        self._live = False
        self._queue: list[Frame] = []
        self._queued = 0
        self._base: Cursor | None = None  # what the first queued frame continues; None: nothing known
        self._tail: Cursor | None = None  # where the queue ends; None: while catching up with an empty queue
        self._waiter: asyncio.Future[None] | None = None
        self._nudged = False
        self._failure: Exception | None = None
        self._trouble_since: float | None = None

    @property
    def spec(self) -> Spec:
        """What never changes about the run: whose it is, its thread and engine."""
        assert self._spec is not None, "the subscription is not open"
        return self._spec

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Frame]:
        """Return the next frames, all that are there, waiting for at least one.

        Raises:
            StoreUnavailable: the store was unavailable for longer than PATIENCE_S.
        """
        while not (frames := await self.batch()):
            pass
        return frames

    async def batch(self, *, wait: bool = True) -> list[Frame]:
        """Return the next frames, as the iteration does; an empty list as soon as the reader was nudged.

        With `wait=False` an empty list says instead that there is nothing more to read as of now.

        Raises:
            StopAsyncIteration: the subscription is over; `end` says why.
            StoreUnavailable: the store was unavailable for longer than PATIENCE_S.
        """
        while True:
            if frames := self._take():
                return frames
            if self._failure is not None:
                raise self._failure
            if self.end is not None:
                raise StopAsyncIteration
            if self._nudged and wait:
                self._nudged = False
                return []
            if self._live:
                if not wait:
                    return []
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            else:
                await self._catch_up_patiently()

    def nudge(self) -> None:
        """Have `batch` return though nothing is there: it is time for a sign of life."""
        self._nudged = True
        self._wake()

    def _wake(self) -> None:
        # A future of our own, not an Event: every delivery to every reader comes through here.
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _take(self) -> list[Frame]:
        if self.end is End.CLOSED:
            return []
        frames = self._ready
        if frames:
            self._ready = []
        elif self._live and self._queue:
            frames, self._queue, self._queued = self._queue, [], 0
            self.cursor = frames[-1].cursor
        if frames and frames[-1].type == Type.FINISHED:
            self.close(End.FINISHED)
        return frames

    def close(self, end: End) -> None:
        """End the subscription; the first end stands."""
        if self.end is None:
            self.end = end
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the subscription with an error, after what is queued."""
        self._failure = self._failure or error
        self._wake()

    # -- what the followed run delivers

    def offer(self, batch: Batch) -> None:
        """Queue a batch. The followed run calls it for every batch, also during a catch-up."""
        frames: list[Frame] | None = batch.frames
        size = batch.size
        if self._tail != batch.after:
            if self._live:
                assert self._tail is not None
                frames = batch.newer(self._tail)
                size = sum(len(frame.wire) for frame in frames or ())
            else:
                self._drop_queue()
                self._base = batch.after
        if frames is None:
            self.lag()
        elif frames:
            self._enqueue(frames, size)

    def _enqueue(self, frames: list[Frame], size: int) -> None:
        full = self._queued + size > QUEUE_BYTES or len(self._queue) + len(frames) > QUEUE_FRAMES
        if self._queue and full:  # a lone frame may be larger than the limit: a final event of 8 MB
            self.lag()
            return
        self._queue.extend(frames)
        self._queued += size
        self._tail = frames[-1].cursor
        self._wake()

    def lag(self) -> None:
        """Drop the queue and go back to reading the log from the reader's own cursor."""
        self._drop_queue()
        self._live = False
        self._wake()

    def _drop_queue(self) -> None:
        self._queue, self._queued = [], 0
        self._base = self._tail = None

    @property
    def position(self) -> Cursor:
        """The furthest event that this subscription has, delivered or queued."""
        return max(self.cursor, self._tail or self.cursor)

    # -- catching up

    async def open(self, *, from_snapshot: bool = False) -> None:
        """Read the first page: proves that the run is there, and fills `spec`.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the store does not answer.
        """
        if from_snapshot:
            await self._read_state()
        else:
            await self._catch_up()
        if self.end is End.GONE:
            raise errors.NotFound

    async def _catch_up_patiently(self) -> None:
        try:
            await self._catch_up()
        except errors.StoreUnavailable:
            now = time.monotonic()
            self._trouble_since = self._trouble_since or now
            if now - self._trouble_since > PATIENCE_S:
                raise
        else:
            self._trouble_since = None
            if not (self._ready or self._live or self.end):
                await asyncio.sleep(PAUSE_S)

    async def _catch_up(self) -> None:
        """Read the page after the cursor, or a snapshot if there is a hole; join the live flow at the top."""
        floor = self._followed.cursor
        page = await transitions.find_page(self._store, self._followed.run_id, after=self.cursor)
        if isinstance(page, transitions.Gone):
            self.close(End.GONE)
            return
        self._spec = page.spec
        frames = chain(self.cursor, page.entries)
        if frames:
            self._hand_out(frames)
        elif self._needs_state(page):
            await self._read_state()
        elif page.status.is_terminal:
            self.close(End.FINISHED)
        if self.end is None and self._has_reached(page.top):
            await self._join(floor, page.top)

    def _needs_state(self, page: transitions.Page) -> bool:
        """Tell whether the log cannot continue this reader: a hole, a log cut short, or no log left."""
        if page.top == cursors.START:
            # The log is missing. A run that goes on gets its repair (`resync`) from its owner: wait for it.
            return page.status.is_terminal and self.cursor != Cursor(page.epoch, 0)
        return bool(page.entries) or page.top < self.cursor

    def _has_reached(self, top: Cursor) -> bool:
        over = bool(self._ready) and self._ready[-1].type == Type.FINISHED
        return not over and top in (self.cursor, cursors.START)

    def _hand_out(self, frames: list[Frame]) -> None:
        self._ready.extend(frames)
        self.cursor = frames[-1].cursor

    async def _read_state(self) -> None:
        """Hand out a state in place of the events that the log does not have (or that nobody wants)."""
        read = await self._followed.read_state()
        if isinstance(read, transitions.Gone):
            self.close(End.GONE)
            return
        self._spec = read.state.spec
        if frames := await read.frames_beyond(self.cursor):
            self._hand_out(frames)

    async def _join(self, floor: Cursor | None, top: Cursor) -> None:
        """Go over to the live flow, if nothing lies between this cursor and what the followed run delivers.

        `floor` is where the followed run was before the log's top was read: a top below it proves a shorter
        log.
        """
        if floor is not None and cursors.START < top < floor:
            self._followed.rewind(top)
        await self._followed.attach(self.cursor)
        known = [frame for frame in self._queue if frame.cursor <= self.cursor]
        base = known[-1].cursor if known else self._base
        fresh = self._queue[len(known) :]
        if fresh and base != self.cursor:
            return
        if not fresh and self._followed.cursor is not None and self._followed.cursor > self.cursor:
            return
        self._queue, self._queued = fresh, sum(len(frame.wire) for frame in fresh)
        self._tail = fresh[-1].cursor if fresh else self.cursor
        self._live = True
