"""The Celery tasks that execute runs, and what engines are written against."""

from __future__ import annotations

from mainstem_tasks.blocking import SyncRunContext
from mainstem_tasks.context import RunContext
from mainstem_tasks.registry import engine

__all__ = ["RunContext", "SyncRunContext", "engine"]
