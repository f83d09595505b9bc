"""Tells which limit of time an engine has broken, in words that name the limit and how to raise it."""

from __future__ import annotations

from typing import Final

SOFT: Final = "Its Celery task was over its time limit: raise task_soft_time_limit and task_time_limit."
"""What ended a run that Celery stopped."""
_LONGEST: Final = "start it with a greater max_duration_s, or raise MAINSTEM_MAX_RUN_S."
_SILENT: Final = (
    "raise MAINSTEM_IDLE_TIMEOUT_S, or work in `run.step`, `run.busy`, or between a tool's call and result."
)


def broken(*, ran_s: float, longest_s: float, silent_s: float, idle_timeout_s: float) -> str | None:
    """Return what ends a run that has worked and been silent for so long; None if nothing does."""
    if ran_s > longest_s:
        return f"It ran for more than {longest_s:g} s: {_LONGEST}"
    if silent_s > idle_timeout_s:
        return f"It emitted nothing for more than {idle_timeout_s:g} s: {_SILENT}"
    return None
