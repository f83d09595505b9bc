"""Reads a thread as messages, oldest first: one branch of it, page by page in both directions.

The tree is built from the specs of the thread's runs; inputs and contents are read for one page only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import branches, contents, messages
from mainstem_shared.model.branches import Node, Tree
from mainstem_shared.model.messages import Message
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Run, Spec
from mainstem_shared.operations.queries import listings, ready_pages
from mainstem_shared.operations.queries.listings import Position
from mainstem_shared.operations.queries.ready_pages import ReadyPage
from mainstem_shared.store.client import Store

PAGE: Final = 50
LONGEST_PAGE: Final = 200
RUNS: Final = 10_000
"""The newest runs of a thread that are read: longer conversations lose their beginning."""
_AT_A_TIME: Final = 1000
"""Specs that are read with one pipeline."""
_LONG: Final = 500
"""Threads with more runs are made into a tree beside the event loop."""
BYTES_PER_PAGE: Final = 4 * 1024 * 1024
"""A page ends early once its messages hold this much text."""
_AT_ONCE: Final = 8
_ARCHIVED_AT_ONCE: Final = 100
"""Archived runs ahead of a group that are read with the same query: their contents are in memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Whose thread to read, and which part of it.

    Attributes:
        tenant: the thread's.
        thread_id: the thread.
        user_id: whose runs; None: everybody's.
        branch: a message on the branch to be read; None: the latest branch.
        before: read what stands before this message.
        after: read what stands after this message.
        limit: how many messages at most.
    """

    tenant: str
    thread_id: str
    user_id: str | None = None
    branch: str | None = None
    before: str | None = None
    after: str | None = None
    limit: int = PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Messages that follow each other, oldest first.

    `previous`: give it as `before` to read what stands before them; `next`: give it as `after`. None: nothing
    is there.
    """

    messages: list[Message]
    previous: str | None
    next: str | None


async def tree(store: Store, query: Query) -> Tree:
    """Return a thread's runs, of one user or of all, as a tree."""
    specs = await _specs(store, query.tenant, query.thread_id)

    def grown() -> Tree:
        known = (_spec(run_id, spec) for run_id, spec in specs)
        return Tree(spec for spec in known if spec is not None and _is_theirs(spec, query))

    return await asyncio.to_thread(grown) if len(specs) > _LONG else grown()


async def _specs(
    store: Store, tenant: str, thread_id: str
) -> list[tuple[str, bytes | Record | transitions.Gone]]:
    """Return ids and specs of a thread's newest runs: the store is asked for those that the archive lacks.

    Its list is read first: a run that leaves the list meanwhile is in the archive by then.
    """
    listed = await listings.stored_of_thread(store, tenant, thread_id, limit=RUNS)
    kept = (
        {}
        if store.archive is None
        else {
            Position(at, run_id): spec
            for at, run_id, spec in await store.archive.threads.specs(tenant, thread_id, limit=RUNS)
        }
    )
    newest = sorted({*listed, *kept}, reverse=True)[:RUNS]
    rest = [entry.run_id for entry in newest if entry not in kept]
    found: dict[str, Record | transitions.Gone] = {}
    for first in range(0, len(rest), _AT_A_TIME):
        some = rest[first : first + _AT_A_TIME]
        found.update(zip(some, await transitions.find_many(store, some, Record.spec), strict=True))
    return [(entry.run_id, kept.get(entry) or found[entry.run_id]) for entry in newest]


def _spec(run_id: str, known: bytes | Record | transitions.Gone) -> Spec | None:
    if isinstance(known, transitions.Gone):
        return None
    try:
        return Spec.model_validate_json(known) if isinstance(known, bytes) else known.spec
    except contents.UNREADABLE as error:
        listings.cannot_read(run_id, error)
        return None


def _is_theirs(spec: Spec, query: Query) -> bool:
    return spec.tenant == query.tenant and query.user_id in (None, spec.user_id)


async def page(store: Store, query: Query) -> Page:
    """Return a page of a thread's messages: by default the last ones of its latest branch.

    Raises:
        NotFound: the thread has no runs, or none of this user; or the message that is named is not there.
        InvalidRequest: the limit is out of range, or both `before` and `after` are given.
    """
    if not 1 <= query.limit <= LONGEST_PAGE:
        raise errors.InvalidRequest(f"limit: must be between 1 and {LONGEST_PAGE}.")
    if query.before is not None and query.after is not None:
        raise errors.InvalidRequest("before, after: give one of them.")
    if (found := await _ready(store, query)) is not None:
        return found
    known = await tree(store, query)
    if known.newest is None:
        raise errors.NotFound("No such thread.")
    return await _Reading(store, known, _leaf(known, query), limit=query.limit).page(query)


async def ready_page(store: Store, query: Query) -> ReadyPage | None:
    """Return the newest page of a thread as JSON, if it stands ready in the archive; else None.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    if (query.branch, query.before, query.after) != (None, None, None):
        return None
    return await ready_pages.find(
        store, tenant=query.tenant, thread_id=query.thread_id, user_id=query.user_id, limit=query.limit
    )


async def _ready(store: Store, query: Query) -> Page | None:
    found = await ready_page(store, query)
    try:
        return found and Page(messages=found.parsed(), previous=found.previous, next=None)
    except ValueError:
        return None  # half of a surrogate pair


async def history(store: Store, query: Query, *, leaf: str, limit: int) -> list[Message]:
    """Return the last messages before a run, oldest first, without what its own input says.

    A run that answers an earlier question again has that question as the last one.

    Raises:
        NotFound: there is no such run on the thread.
    """
    known = await tree(store, query)
    node = known.nodes.get(leaf)
    if node is None:
        raise errors.NotFound
    if node.after is None and not node.is_again:
        return []  # it begins the thread
    reading = _Reading(store, known, node, limit=limit)
    found = await reading.backwards(len(reading.path), limit + 2)
    return [message for message in found if message.run_id != leaf][-limit:]


def _leaf(known: Tree, query: Query) -> Node:
    named = query.branch or query.before or query.after
    newest = known.newest
    assert newest is not None
    if named is None:
        return newest
    found = known.leaf(named)
    if found is None:
        raise errors.NotFound("No such message.")
    if query.branch is None and _stands_on(known, named, newest):
        return newest
    return found


def _stands_on(known: Tree, message_id: str, leaf: Node) -> bool:
    """Tell whether a message stands on the branch that ends with this run."""
    found = known.owner(message_id)
    if found is None:
        return False
    path = known.path(leaf)
    if message_id == found[0].run_id:
        return any(node.run_id == message_id for node in path)
    return any(node.answers.run_id == found[0].answers.run_id for node in path)


class _Reading:
    """One branch, whose runs are read as they are needed."""

    def __init__(self, store: Store, known: Tree, leaf: Node, *, limit: int) -> None:
        self._store = store
        self._ahead = min(limit // 2, _ARCHIVED_AT_ONCE)
        self._tree = known
        self.path = known.path(leaf)
        self._kept: dict[str, StoredRun] = {}
        self._asked: set[str] = set()

    async def _learn(self, numbers: range) -> None:
        """Read what only the archive has of these runs and of those that come next, all at once."""
        ids = {self.path[number].run_id for number in numbers}
        if self._store.archive is None or ids <= self._asked:
            return
        # More come next, before these or after them; how many, who asks for the page has said.
        near = self.path[max(0, numbers.start - self._ahead) : numbers.stop + self._ahead]
        wanted = {run_id for node in near for run_id in (node.run_id, node.answers.run_id)} - self._asked
        self._kept.update(await transitions.find_archived(self._store, sorted(wanted)))
        self._asked |= wanted

    async def page(self, query: Query) -> Page:
        if query.after is not None:
            return await self._forwards(query.after, query.limit)
        return await self._before(query.before, query.limit)

    async def _before(self, message_id: str | None, limit: int) -> Page:
        end = len(self.path) if message_id is None else self._position(message_id) + 1
        found = await self.backwards(end, limit + 1, before=message_id)
        shown = found[-limit:]
        more = bool(shown) and shown[0].parent is not None
        return Page(
            messages=shown,
            previous=shown[0].id if more else None,
            next=message_id and shown[-1].id if shown else None,
        )

    async def backwards(self, end: int, limit: int, *, before: str | None = None) -> list[Message]:
        """Return at least `limit` messages up to a place of the path, if there are as many."""
        found: list[Message] = []
        size = 0
        for first in range(end - 1, -1, -_AT_ONCE):
            numbers = range(max(0, first - _AT_ONCE + 1), first + 1)
            await self._learn(numbers)
            groups = await asyncio.gather(*(self._messages(number) for number in numbers))
            for group in reversed(groups):
                kept = _until(group, before)
                found[:0] = kept
                size += sum(weight(message) for message in kept)
                if len(found) >= limit or size > BYTES_PER_PAGE:
                    return found
        return found

    async def _forwards(self, message_id: str, limit: int) -> Page:
        found: list[Message] = []
        size = 0
        begin = self._position(message_id)
        for first in range(begin, len(self.path), _AT_ONCE):
            numbers = range(first, min(len(self.path), first + _AT_ONCE))
            await self._learn(numbers)
            for group in await asyncio.gather(*(self._messages(number) for number in numbers)):
                kept = _after(group, message_id)
                found += kept
                size += sum(weight(message) for message in kept)
                if len(found) > limit or size > BYTES_PER_PAGE:
                    break
            if len(found) > limit or size > BYTES_PER_PAGE:
                break
        shown = found[:limit]
        last = self._tree.last_message(self.path[-1])
        more = bool(shown) and shown[-1].id != last
        return Page(
            messages=shown, previous=shown[0].id if shown else None, next=shown[-1].id if more else None
        )

    def _position(self, message_id: str) -> int:
        """Return the number on the path of the run that a message belongs to."""
        found = self._tree.owner(message_id)
        for number, node in enumerate(self.path):
            if node.run_id == message_id:
                return number
            if found and message_id != found[0].run_id and node.answers.run_id == found[0].answers.run_id:
                return number
        raise errors.NotFound("No such message on this branch.")

    async def _messages(self, number: int) -> list[Message]:
        """Return the messages that a run of the path adds to it: what it answers, and its answer."""
        node = self.path[number]
        spoken = await self._said(node, is_first=node.after is None)
        before = self._tree.before(node)
        made = messages.of_inputs(node.answers, spoken, parent=before)[: node.prefix]
        if made and node.prefix is None:
            made[-1] = made[-1].model_copy(update={"siblings": self._tree.edits_of(node)})
        if not node.is_answered:
            return made
        answer = await self._answer(node, made[-1].id if made else before)
        return [*made, answer] if answer is not None else made

    async def _said(self, node: Node, *, is_first: bool) -> list[messages.Turn]:
        kept = self._kept.get(node.answers.run_id)
        record = kept.record() if kept else await self._record(node.answers.run_id)
        if isinstance(record, transitions.Gone):
            return []
        try:
            return messages.said(record.run_input, is_first=is_first)
        except contents.UNREADABLE as error:
            listings.cannot_read(node.answers.run_id, error)
            return []

    async def _record(self, run_id: str) -> Record | transitions.Gone:
        return await transitions.find_fields(self._store, run_id, Record.run_input)

    async def _answer(self, node: Node, parent: str | None) -> Message | None:
        try:
            kept = self._kept.get(node.run_id)
            run, decisions = await read_answer(self._store, node.run_id, kept=kept)
        except errors.NotFound:
            return None  # its retention ended this very moment
        answer = messages.of_run(run, decisions, parent=parent, copied=node.spec.forked_from)
        return answer.model_copy(update={"siblings": self._tree.answers_to(node)})


async def read_answer(
    store: Store, run_id: str, *, kept: StoredRun | None = None
) -> tuple[Run, list[dict[str, object]]]:
    """Return a run as of now, and what was decided in it; `kept` is what the archive has, if that was read.

    Raises:
        NotFound: there is no such run (any more).
    """
    state = await transitions.find(store, run_id) if kept is None else transitions.state_of(kept)
    if isinstance(state, transitions.Gone):
        raise errors.NotFound
    try:
        large = run_states.size(state) > run_states.LARGE
        run = await asyncio.to_thread(run_states.run, state) if large else run_states.run(state)
        decisions = state.record.decisions or []
    except contents.UNREADABLE as error:
        listings.cannot_read(run_id, error)
        raise errors.NotFound from error
    return run, decisions


def _until(group: list[Message], before: str | None) -> list[Message]:
    numbers = [number for number, message in enumerate(group) if message.id == before]
    return group[: numbers[0]] if numbers else group


def _after(group: list[Message], after: str) -> list[Message]:
    numbers = [number for number, message in enumerate(group) if message.id == after]
    return group[numbers[0] + 1 :] if numbers else group


def weight(message: Message) -> int:
    """Return about how many bytes of text a message has."""
    return sum(len(str(part.get("text") or part.get("result") or "")) for part in message.parts)


__all__ = ["LONGEST_PAGE", "PAGE", "Page", "Query", "branches", "history", "page", "read_answer", "tree"]
