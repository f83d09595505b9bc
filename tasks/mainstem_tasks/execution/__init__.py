"""Executes one segment of a run: claim, engine, limits, end."""
