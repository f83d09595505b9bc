"""Queries read runs without changing them: one run, listings, summaries."""
