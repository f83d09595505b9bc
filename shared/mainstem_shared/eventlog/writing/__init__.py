"""Appending to logs: one state machine per run (`channels`), one writer per process."""
