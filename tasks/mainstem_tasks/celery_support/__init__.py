"""What Celery needs to run coroutines, cancel them with a cause, and publish without blocking."""
