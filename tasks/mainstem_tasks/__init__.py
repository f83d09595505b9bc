"""The Celery tasks that execute runs, and what engines are written against."""

from __future__ import annotations

from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine
from mainstem_tasks.sdk.sync_context import SyncRunContext

__all__ = ["RunContext", "SyncRunContext", "engine"]
