"""Alembic's scripts for the archive's tables, one per change; never edited once released."""
