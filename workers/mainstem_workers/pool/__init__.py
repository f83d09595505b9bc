"""Implements an asyncio pool for Celery 5.7.

Selected with `CELERY_CUSTOM_WORKER_POOL=mainstem_workers.pool:TaskPool` and `--pool custom`.
"""

from mainstem_workers.pool.options import PoolOptions
from mainstem_workers.pool.taskpool import TaskPool

__all__ = ["PoolOptions", "TaskPool"]
