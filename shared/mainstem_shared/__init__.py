"""Holds the code that all packages share: model, store, transitions, event log, operations.

It imports neither Celery nor FastAPI.
"""
