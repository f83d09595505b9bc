"""Stores what is too large for a run's record and log: files, and large results, beside the run.

`drivers` say where bytes lie, `files` moves them out of inputs and back. Knows no store and no run.
"""
