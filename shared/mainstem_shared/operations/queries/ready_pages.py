"""Puts the newest page of an archived thread together from the messages that stand ready in its rows.

Only what needs no tree: every run follows the one before it, and the store has none of them. Otherwise there
is no such page, and `conversations` builds it from specs and contents.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from mainstem_shared import transitions
from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import contents, jsontext, messages
from mainstem_shared.model.branches import BEGINNING
from mainstem_shared.model.messages import Message
from mainstem_shared.model.ready_messages import Ready
from mainstem_shared.operations.queries import listings
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

LONGEST: Final = 256 * 1024
"""Messages of a run that are longer are not kept ready: a page has few of these, and rows would double."""
BYTES_PER_PAGE: Final = 4 * 1024 * 1024
_MESSAGES: Final = TypeAdapter(list[Message])
"""It decodes and validates in one go: 6 µs a message, decoding alone takes 4, `model_construct` 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyPage:
    """A page of messages, oldest first: JSON with commas between; `previous` as of `conversations.Page`."""

    messages: bytes
    previous: str | None

    def json(self) -> bytes:
        """Return the answer that a page has over HTTP."""
        previous = jsontext.dumps(self.previous)
        return b"".join((b'{"messages":[', self.messages, b'],"previous":', previous, b',"next":null}'))

    def parsed(self) -> list[Message]:
        """Return the messages.

        Raises:
            ValueError: one of them has half of a surrogate pair.
        """
        return _MESSAGES.validate_json(b"".join((b"[", self.messages, b"]")))


def ready_of(run: StoredRun, at_ms: int) -> bytes | None:
    """Return a finished run's messages as its row keeps them; None if they depend on other runs."""
    try:
        return _ready_of(run, at_ms)
    except contents.UNREADABLE:
        return None  # who reads the thread finds out, and says so


def _ready_of(run: StoredRun, at_ms: int) -> bytes | None:
    state = transitions.state_of(run)
    spec = state.spec
    if spec.forked_from is not None:
        return None
    turns = messages.said(state.record.run_input, is_first=False)
    made = messages.of_inputs(spec, turns, parent=None)
    answer = messages.of_run(
        run_states.run(state), state.record.decisions or [], parent=made[-1].id if made else None
    )
    begins = messages.said(state.record.run_input, is_first=True) == turns
    stored = Ready.of([*made, answer], parent=spec.parent, begins=begins, at_ms=at_ms).dump()
    return stored if len(stored) <= LONGEST else None


async def find(
    store: Store, *, tenant: str, thread_id: str, user_id: str | None, limit: int
) -> ReadyPage | None:
    """Return the newest page of a thread; None if it has to be built.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    if store.archive is None or await listings.stored_of_thread(store, tenant, thread_id, limit=1):
        return None
    for wanted in dict.fromkeys((limit // 2 + 2, limit + 2)):  # mostly a run has two messages; some have one
        rows = await store.archive.threads.ready(tenant, thread_id, user_id=user_id, limit=wanted)
        try:
            page = _joined(rows, limit=limit, is_all=len(rows) < wanted)
        except ValueError:
            logger.exception("damaged messages of an archived thread are built anew", extra=_noted(thread_id))
            return None
        if page is not None or len(rows) < wanted:
            return page
    return None


def _noted(thread_id: str) -> dict[str, str]:
    return {"action": "ready_messages_damaged", "thread_id": thread_id}


def _joined(rows: Sequence[tuple[str, int, bytes | None]], *, limit: int, is_all: bool) -> ReadyPage | None:
    """Join rows, the newest first; None if they are no line, or too few though there are more."""
    shown: list[bytes] = []
    count = size = 0
    below = [*(run_id for run_id, _, _ in rows[1:]), None]
    for (_, archived_ms, stored), before in zip(rows, below, strict=True):
        if stored is None:
            return None
        ready = Ready.load(bytes(stored))
        # What comes before the last row is not known, unless these are all.
        if ready.at_ms != archived_ms or not _follows(ready, before) or not (before or is_all):
            return None
        there = len(ready.sizes)
        if (room := limit - count) < there:
            if room:
                shown.append(ready.last(room))
            return _page(shown, is_first=False)
        shown.append(ready.after(b"null" if before is None else b'"%s"' % before.encode()))
        count, size = count + there, size + len(stored)
        if size > BYTES_PER_PAGE:
            return None
        if count == limit:
            return _page(shown, is_first=before is None)
    return _page(shown, is_first=True) if is_all else None


def _follows(ready: Ready, before: str | None) -> bool:
    if before is None:
        return ready.begins and ready.parent in (None, BEGINNING)
    return ready.parent in (None, before)


def _page(shown: list[bytes], *, is_first: bool) -> ReadyPage | None:
    if not shown:
        return None
    previous = None if is_first else jsontext.loads(b"[" + shown[-1] + b"]")[0]["id"]
    return ReadyPage(messages=b",".join(reversed(shown)), previous=previous)
