"""`Conversations` holds `AsyncRuns`' methods that read threads: messages, inputs, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import blob_references, cursors, jsontext, validation
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.principals import DEFAULT_TENANT, LOCAL_USER, Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Run
from mainstem_shared.operations import forking
from mainstem_shared.operations.forking import Fork
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import conversations, listings, threads
from mainstem_shared.operations.queries.threads import Thread
from mainstem_shared.store.client import Store


class Conversations:
    """The part of `AsyncRuns` that reads conversations."""

    _store: Store
    _operations: Operations

    async def input(
        self, run_id: str, *, user_id: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any]:
        """Return what a run was started with; larger files are `mainstem-blob:` references.

        Raises:
            NotFound: it does not exist, or not for this user.
        """
        await run_states.check_owner(self._store, run_id, tenant=tenant, user_id=user_id)
        record = await transitions.find_fields(self._store, run_id, Record.run_input)
        if isinstance(record, transitions.Gone):
            raise errors.NotFound
        return record.run_input

    async def blob(
        self, run_id: str, digest: str, *, user_id: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> bytes:
        """Return a file of a run: of its input or content, by the part's `digest`.

        Raises:
            NotFound: it does not exist, or not for this user.
        """
        await run_states.check_owner(self._store, run_id, tenant=tenant, user_id=user_id)
        if not blob_references.is_digest(digest):
            raise errors.NotFound("No such blob.")
        return await self._operations.files.get(run_id, digest)

    async def messages(
        self,
        thread_id: str,
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
        branch: str | None = None,
        before: str | None = None,
        after: str | None = None,
        limit: int = conversations.PAGE,
    ) -> conversations.Page:
        """Return messages of a thread, oldest first: by default the last ones of its latest branch.

        Args:
            thread_id: the conversation.
            user_id: whose messages; None means all users of the tenant.
            tenant: whose thread that is.
            branch: any message of the branch to be read, such as one of a message's `siblings`.
            before: read those that stand before this message: the `previous` of a page.
            after: read those that stand after this message: the `next` of a page.
            limit: how many there are on a page.

        Raises:
            NotFound: the thread has no messages, none of this user, or not the one that is named.
            InvalidRequest: the limit is out of range, or both `before` and `after` are given.
        """
        query = conversations.Query(
            tenant=tenant,
            thread_id=thread_id,
            user_id=user_id,
            branch=branch,
            before=before,
            after=after,
            limit=limit,
        )
        return await conversations.page(self._store, query)

    async def ready_messages(
        self, thread_id: str, *, user_id: str | None, tenant: str, limit: int
    ) -> bytes | None:
        """Return the answer of `GET /v1/threads/{id}/messages`; None if it does not stand ready."""
        query = conversations.Query(tenant=tenant, thread_id=thread_id, user_id=user_id, limit=limit)
        found = await conversations.ready_page(self._store, query)
        return found and found.json()

    async def fork_thread(
        self,
        thread_id: str,
        *,
        at: str | None = None,
        cursor: str | None = None,
        new_thread_id: str | None = None,
        idempotency_key: str | None = None,
        user_id: str = LOCAL_USER,
        tenant: str = DEFAULT_TENANT,
    ) -> Fork:
        """Copy a thread's history to a new thread, which goes on by itself. Asked again, it is the same.

        Args:
            thread_id: the conversation.
            at: the last message that is copied; None means the latest.
            cursor: of a run's message, how far it is copied: up to this event of the run.
            new_thread_id: the new thread's id; None makes one.
            idempotency_key: repeating the call with it makes no second thread.
            user_id: whose messages are copied, and whose the new thread is.
            tenant: whose both threads are.

        Raises:
            NotFound: the thread, or the message, does not exist, or not for this user.
            InvalidRequest: also as InvalidCursor: the cursor does not fit, or is not kept any more.
            Conflict: the new thread has runs already.
        """
        query = conversations.Query(tenant=tenant, thread_id=thread_id, user_id=user_id)
        return await forking.fork_thread(
            self._operations,
            query,
            forking.Point(message_id=at, cursor=None if cursor is None else cursors.parse(cursor)),
            principal=Principal(user_id=user_id, tenant=tenant),
            thread_id=new_thread_id,
            idempotency_key=idempotency_key,
        )

    async def threads(
        self,
        *,
        user_id: str = LOCAL_USER,
        tenant: str = DEFAULT_TENANT,
        search: str = "",
        limit: int = listings.PAGE,
        cursor: str | None = None,
    ) -> tuple[list[Thread], str | None]:
        """Return a user's threads, the last active one first, and the `cursor` of the next page.

        `search`: only those whose title has these characters, whatever their case.

        Raises:
            InvalidCursor: `cursor` is not that of a page before.
            InvalidRequest: the limit is out of range.
        """
        return await threads.page(
            self._store, tenant=tenant, user_id=user_id, search=search, limit=limit, cursor=cursor
        )

    async def describe_thread(
        self,
        thread_id: str,
        changes: Mapping[str, Any],
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Description:
        """Change a thread's `title`, `labels` and `metadata`: None clears, what is absent stays.

        Raises:
            NotFound: the thread has no runs, or none of this user.
            InvalidRequest: the changes do not fit.
        """
        change = _description(changes)
        return await threads.describe_thread(self._store, thread_id, change, tenant=tenant, user_id=user_id)

    async def describe(
        self,
        run_id: str,
        changes: Mapping[str, Any],
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Run:
        """Change a run's `title`, `labels` and `metadata`: None clears, what is absent stays.

        A cleared title or metadata is what the engine, or the start, said.

        Raises:
            NotFound: it does not exist, or not for this user.
            InvalidRequest: the changes do not fit.
        """
        change = _description(changes)
        return await threads.describe_run(self._store, run_id, change, tenant=tenant, user_id=user_id)


def _description(changes: Mapping[str, Any]) -> Description:
    try:
        return Description.model_validate(jsontext.well_formed(dict(changes)))
    except ValidationError as error:
        raise validation.invalid_request(error) from error
