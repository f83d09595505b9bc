"""The worker process: Celery app, asyncio pool, lease, watchdog and mailbox."""
