"""Forks a thread: copies its history, up to a message or a cursor, to a new thread that goes on by itself.

A copy is a run that is over from the start: every reader, list, adapter and the archive takes it for one, and
what becomes of the original does not touch it. Copies are made in order, each after the one before; their ids
follow from what they copy and where, so that a call that broke off is made again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import blob_references, contents, cursors, digests, ids, jsontext, messages
from mainstem_shared.model.branches import Node
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import RECORD_VERSION, ErrorInfo, ForkedFrom, Reason, Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending
from mainstem_shared.operations.performing import COPY, Operations, nobody
from mainstem_shared.operations.queries import conversations, listings, threads
from mainstem_shared.transitions import Original, State

_DECIDED: Final = frozenset({Type.APPROVAL_RESOLVED, Type.APPROVAL_EXPIRED})
_FILE: Final = re.compile(r"/v1/runs/([a-z2-7]{16}_[a-z2-7]{26})/blobs/([0-9a-f]{64})")
_TAKEN: Final = "A thread with this id exists already; leave `thread_id` out, or choose another."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A thread that was forked: the new one, and where in the old one it begins.

    `message_id` is the last message of the new thread, `run_id` its last run.
    """

    thread_id: str
    message_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where to fork: after which message, and where in the answer that it is.

    Attributes:
        message_id: the last message that is copied; None: the thread's latest.
        cursor: how far a run's message is copied; None: to its end, or as far as it is by now.
    """

    message_id: str | None = None
    cursor: Cursor | None = None


async def fork_thread(
    operations: Operations,
    query: conversations.Query,
    point: Point,
    *,
    principal: Principal,
    thread_id: str | None = None,
    idempotency_key: str | None = None,
) -> Fork:
    """Copy a thread's history up to a point to a new thread of `principal`; `query` says whose thread.

    Repeated with the same `thread_id`, or key, it is answered the same.

    Raises:
        NotFound: there is no such thread, or no such message of this user.
        InvalidRequest: the cursor is not one of the message's run, or its events are not kept any more.
        Conflict: the new thread has other runs.
    """
    await operations.store.learn_time()
    known = await conversations.tree(operations.store, query)
    if known.newest is None:
        raise errors.NotFound("No such thread.")
    message_id = point.message_id or known.last_message(known.newest)
    found = known.owner(message_id)
    if found is None:
        raise errors.NotFound("No such message.")
    last, prefix = found
    target = thread_id or _new_thread(query, principal, idempotency_key)
    making = _Making(operations, principal, target)
    is_answer = message_id == last.run_id
    if point.cursor is not None and not is_answer:
        raise errors.InvalidRequest("cursor: give the message of a run with it.")
    path = [_Copied(node=node, prefix=node.prefix) for node in known.path(last)]
    path[-1] = _Copied(
        node=last,
        prefix=last.prefix if is_answer else prefix,
        cut=point.cursor,
        is_answered=is_answer and last.is_answered,
    )
    await making.check_free(path[0])
    for copied in path:
        await making.copy(copied)
    await making.describe(query)
    return await making.fork()


def _new_thread(query: conversations.Query, principal: Principal, key: str | None) -> str:
    if key is None:
        return str(ids.uuid7())
    scope = [principal.tenant, principal.user_id, query.thread_id, key]
    return str(UUID(hex=digests.of_json(["fork", *scope])[:32]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copied:
    """How much of a run is copied: so many messages of its input (None: all), its answer, up to a cursor."""

    node: Node
    prefix: int | None
    cut: Cursor | None = None
    is_answered: bool = True

    @property
    def extent(self) -> str:
        """What tells this copy from another of the same run."""
        return f"{self.prefix}/{self.cut or ''}/{self.is_answered}"


class _Making:
    """The copies of one fork, oldest first."""

    def __init__(self, operations: Operations, principal: Principal, thread_id: str) -> None:
        self._operations = operations
        self._store = operations.store
        self._principal = principal
        self._thread_id = thread_id
        self._previous = ""
        self._there: set[str] = set()
        self._ids: dict[str, str] = {}
        self._now = now_ms()

    def _id(self, copied: _Copied) -> str:
        named = [self._principal.user_id, self._thread_id, self._previous, copied.node.run_id, copied.extent]
        unique = UUID(hex=digests.of_json(named)[:32])
        return ids.run_id(self._principal.tenant, self._thread_id, unique)

    async def check_free(self, first: _Copied) -> None:
        """Refuse a thread that has runs, unless this very fork was begun before.

        Raises:
            Conflict: it has.
        """
        there = await listings.newest_of_thread(
            self._store, self._principal.tenant, self._thread_id, limit=conversations.RUNS
        )
        self._there = set(there)
        if there and self._id(first) not in self._there:
            raise errors.Conflict(_TAKEN)

    async def fork(self) -> Fork:
        """Return what was made."""
        query = conversations.Query(
            tenant=self._principal.tenant,
            thread_id=self._thread_id,
            user_id=self._principal.user_id,
            branch=self._previous,
            limit=1,
        )
        page = await conversations.page(self._store, query)
        return Fork(thread_id=self._thread_id, message_id=page.messages[-1].id, run_id=self._previous)

    async def describe(self, query: conversations.Query) -> None:
        """Copy what people say about the thread."""
        about = await threads.description(self._store, query.tenant, query.thread_id)
        given = about.model_dump(exclude_none=True)
        if not given or self._previous in self._there:
            return
        await threads.describe_thread(
            self._store,
            self._thread_id,
            Description.model_validate(given),
            tenant=self._principal.tenant,
            user_id=self._principal.user_id,
        )

    async def copy(self, copied: _Copied) -> None:
        """Copy a run, with its files, after the one before it.

        Raises:
            Conflict: somebody else began a run on the thread.
        """
        node, run_id = copied.node, self._id(copied)
        self._ids[node.run_id] = run_id
        if run_id in self._there:
            self._previous = run_id
            return
        state = await transitions.find(self._store, node.run_id)
        if isinstance(state, transitions.Gone):
            raise errors.NotFound("A run of the thread is gone.")
        files = _Files(run_id, of={node.run_id, node.answers.run_id})
        run_input = await self._input(copied)
        original = await self._original(state, copied.cut) if copied.is_answered else _unanswered()
        original = replace(original, memory=await self._memory(state, copied))
        original = files.renamed_in(original, run_input)
        await files.put(self._operations)
        settings = self._operations.settings
        change = COPY.of(
            self._spec(run_id, copied, state),
            original,
            nonce=f"0.{digests.of_json([run_id])}",
            previous=self._previous,
            retention_ms=settings.retention_ms,
            compact_after_ms=int(settings.compact_after_s * 1000),
        )
        if not await self._operations.perform(change, notify=nobody):
            raise errors.Conflict(_TAKEN)
        self._previous = run_id

    async def _memory(self, state: State, copied: _Copied) -> Changes | None:
        """Return what an engine keeps on the thread, if it is as this run left it and the copy is whole.

        Keys and values that are ids of copied runs become those of the copies: engines note there whose turn
        something is of.
        """
        is_at_rest = state.status.is_terminal or state.status is Status.REQUIRES_ACTION
        if not copied.is_answered or copied.cut not in (None, state.top) or not is_at_rest:
            return None
        engine = state.spec.engine
        kept = await transitions.left_by(self._store, copied.node.run_id, engine=engine)
        if kept and not state.status.is_terminal:  # or it went on meanwhile, and changed what was read
            now = await transitions.find(self._store, copied.node.run_id)
            kept = kept if isinstance(now, State) and now.epoch == state.epoch else {}
        named = {original.encode(): copy.encode() for original, copy in self._ids.items()}
        values = {self._renamed(key): named.get(value, value) for key, value in kept.items()}
        if not values:
            return None
        size = sum(len(key.encode()) + len(value) for key, value in values.items())
        ttl_ms = self._operations.settings.thread_ttl_ms
        return Changes(engine=engine, values=values, size=size, ttl_ms=ttl_ms)

    def _renamed(self, key: str) -> str:
        return "/".join(self._ids.get(name, name) for name in key.split("/"))

    def _spec(self, run_id: str, copied: _Copied, state: State) -> Spec:
        self._now = max(self._now + 1, now_ms())
        node, asked = copied.node, copied.node.answers
        earlier, asked_earlier = state.spec.forked_from, asked.forked_from
        started_ms = state.record.started_ms or state.spec.created_ms
        return state.spec.model_copy(
            update={
                "v": RECORD_VERSION,
                "run_id": run_id,
                "thread_id": self._thread_id,
                "user_id": self._principal.user_id,
                "tenant": self._principal.tenant,
                "created_ms": self._now,
                "trigger": "fork",
                "parent": None,
                "parent_run": None,
                "budget": None,
                "traceparent": None,
                "message_id": asked.message_id if copied.prefix is None else None,
                "forked_from": ForkedFrom(
                    thread_id=state.spec.thread_id,
                    run_id=node.run_id,
                    asked_by=asked.run_id,
                    created_ms=asked_earlier.created_ms if asked_earlier else asked.created_ms,
                    answered_ms=earlier.answered_ms if earlier else started_ms,
                    is_answered=copied.is_answered,
                ),
            }
        )

    async def _input(self, copied: _Copied) -> dict[str, Any]:
        """Return what a run was given, up to the message that it answers."""
        node = copied.node
        record = await transitions.find_fields(self._store, node.answers.run_id, Record.run_input)
        run_input = {} if isinstance(record, transitions.Gone) else record.run_input
        is_first = node.after is None
        spoken = messages.said(run_input, is_first=is_first)
        if copied.prefix is None or copied.prefix >= len(spoken):
            return run_input
        begun = _up_to(run_input["messages"], copied.prefix, is_first=is_first)
        return {**run_input, "messages": begun}

    async def _original(self, state: State, cut: Cursor | None) -> Original:
        """Return what a run produced, to a cursor or as far as it is; what goes on ends there in the copy."""
        decisions = state.record.decisions or []
        if state.status.is_terminal and cut in (None, state.top):
            folded, _, error, payload = run_states.final_content(run_states.final_entry(state), state)
            dumped = {**folded.dump(), **({"unread": payload["unread"]} if "unread" in payload else {})}
            return _as_original(dumped, state.record, decisions, error=error)
        folded = ending.fold_of(state)
        if cut not in (None, state.top):
            assert cut is not None
            folded, decided = await self._content_at(state, cut)
            decisions = decisions[: len(decisions) - decided]
        folded.action = None
        ending.close_open_calls(folded)
        return _as_original(folded.dump(), None, decisions, error=None)

    async def _content_at(self, state: State, cut: Cursor) -> tuple[Content, int]:
        """Return a run's content as of a cursor, and how many decisions were made after it.

        Raises:
            InvalidCursor: the run has no such event (any more).
        """
        entries = await self._log(state.spec.run_id)
        until = [entry for entry in entries if entry.cursor <= cut]
        if not until or until[-1].cursor != cut:
            raise errors.InvalidCursor("The run has no such event, or does not keep it any more.")
        decided = sum(entry.type in _DECIDED for entry in entries if entry.cursor > cut)
        if until[0].prev in (None, cursors.START):
            return contents.fold(until), decided
        if state.snapshot_cursor is None or state.snapshot_cursor > cut:
            raise errors.InvalidCursor("The events up to there are not kept any more: fork at a message.")
        after = [entry for entry in until if entry.cursor > state.snapshot_cursor]
        return contents.fold(after, state.snapshot_state), decided

    async def _log(self, run_id: str) -> list[Entry]:
        entries: list[Entry] = []
        while True:
            after = entries[-1].cursor if entries else cursors.START
            page = await transitions.find_page(self._store, run_id, after=after)
            if isinstance(page, transitions.Gone):
                raise errors.NotFound("A run of the thread is gone.")
            if not page.entries:
                return entries
            entries += page.entries


def _unanswered() -> Original:
    return _as_original(Content().dump(), None, [], error=None)


def _as_original(
    dumped: dict[str, Any], record: Record | None, decisions: list[dict[str, Any]], *, error: ErrorInfo | None
) -> Original:
    """Return what is to be copied: it has cost nothing. Without the record of its end, it was stopped."""
    reason = (record.reason if record else None) or Reason.USER_ABORT
    about = {"title": record.title, "labels": record.labels, "metadata": record.metadata} if record else {}
    return Original(
        run_input=b"",
        state={**dumped, "usage": None, "action": None},
        reason=reason,
        error=error,
        decisions=decisions,
        description=Description.model_validate(about),
    )


def _up_to(chat: Sequence[Any], count: int, *, is_first: bool) -> list[Any]:
    """Return the beginning of an input's messages in which so many are said, and no more."""
    for end in range(len(chat), 0, -1):
        begun = list(chat[:end])
        if len(messages.said({"messages": begun}, is_first=is_first)) == count:
            return begun
    return []


class _Files:
    """The files of a copy: those of the runs that it copies, stored beside it under the same digests.

    What an input names of other runs' files is left as it is: it means nothing there, nor here.
    """

    def __init__(self, run_id: str, *, of: set[str]) -> None:
        self._run_id = run_id
        self._originals = of
        self._found: dict[str, str] = {}

    def renamed_in(self, original: Original, run_input: dict[str, Any]) -> Original:
        """Return what is copied, naming the copy's files."""
        renamed = blob_references.replaced
        return replace(
            original,
            run_input=jsontext.dumps(renamed(run_input, self._renamed)),
            state=renamed(original.state, self._renamed),
            decisions=renamed(original.decisions, self._renamed),
        )

    def _renamed(self, text: str) -> str:
        blob, path = blob_references.parse(text), _FILE.fullmatch(text)
        owner, digest = (blob.run_id, blob.digest) if blob else path.groups() if path else ("", "")
        if owner not in self._originals:
            return text
        self._found[digest] = owner
        return text.replace(owner, self._run_id, 1)

    async def put(self, operations: Operations) -> None:
        """Store them; one that is gone is gone in the copy, too."""
        for digest, owner in self._found.items():
            await operations.files.copy(digest, of=owner, to=self._run_id)


__all__ = ["Fork", "Point", "fork_thread"]
