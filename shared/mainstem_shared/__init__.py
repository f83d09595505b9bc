"""Contracts that every part of Mainstem shares. Nothing here imports Celery, FastAPI or another part."""
