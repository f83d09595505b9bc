"""`Selection` names archived runs to delete; `DeletedRun` is one that was, with its former owner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedRun:
    """A run that the archive has deleted, and its owner; keys or files of it may still exist elsewhere."""

    run_id: str
    tenant: str | None = None
    user_id: str | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selects archived runs: one, a thread's, a user's, or a user's on a thread."""

    tenant: str
    thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
