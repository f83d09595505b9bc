"""Names which archived runs to delete (`Whose`), and one that was deleted (`Doomed`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A run that the archive has deleted, and whose it was; elsewhere there may be something left of it."""

    run_id: str
    tenant: str | None = None
    user_id: str | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Which archived runs are meant: one, a thread's, a user's, or a user's on a thread."""

    tenant: str
    thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
