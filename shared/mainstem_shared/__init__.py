"""Contracts that all packages share: the record, the log, transitions, operations. No Celery, no FastAPI."""
