"""Stores blobs: files and large results of a run that do not fit into its record and log.

`drivers` say where bytes lie, `files` moves them out of inputs and back. Knows no store and no run.
"""
