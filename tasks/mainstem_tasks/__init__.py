"""The Celery tasks that execute runs, and what engines are written against."""
