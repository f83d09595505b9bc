"""Celery support: tasks as coroutines, cancellation with a cause, publishing that never blocks the loop."""
