"""Exports the public names that engines and tools are written against.

The Celery tasks that execute runs are in `tasks`. Names that need Celery are loaded when they are first
used, so that importing an engine's module stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import MissingExtraError, engine
from mainstem_tasks.sdk.sync_context import SyncRunContext
from mainstem_tasks.sdk.tools import tool

if TYPE_CHECKING:
    from mainstem_tasks.celery_support.async_task import AsyncTask
    from mainstem_tasks.celery_support.cancellation import CancelCause, cancel_cause

__all__ = [
    "AsyncTask",
    "CancelCause",
    "MissingExtraError",
    "RunContext",
    "SyncRunContext",
    "cancel_cause",
    "engine",
    "tool",
]


def __getattr__(name: str) -> Any:
    match name:
        case "AsyncTask":
            from mainstem_tasks.celery_support.async_task import AsyncTask

            return AsyncTask
        case "CancelCause" | "cancel_cause":
            from mainstem_tasks.celery_support import cancellation

            return getattr(cancellation, name)
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
