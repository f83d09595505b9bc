"""Turns an operator's `revoke`, from Flower or the command line, into an abort of the run.

Terminate ends a running run; a plain revoke drops what has not started, and leaves a running run alone, as
in Celery. Our own aborts revoke too, and find here that there is nothing left to do.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
from typing import Any

from celery.signals import task_revoked

from mainstem_shared import errors, transitions
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations.aborting import Aborter
from mainstem_tasks.celery_support.publisher import GENERATE
from mainstem_tasks.execution.runtime import Runtime

logger = logging.getLogger(__name__)


class Revocations:
    """Listens to Celery from `start` to `stop`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._aborter = Aborter(operations=runtime.operations, sealer=lambda: runtime.lease.owner)

    def start(self) -> None:
        logging.getLogger("celery.worker.control").addFilter(_is_worth_a_line)
        task_revoked.connect(self._on_revoked, weak=False)

    def stop(self) -> None:
        task_revoked.disconnect(self._on_revoked)

    def _on_revoked(self, sender: Any = None, request: Any = None, **about: Any) -> None:
        """Take note, on whatever thread Celery calls from."""
        run_id = (getattr(request, "kwargs", None) or {}).get("run_id")
        if getattr(sender, "name", None) != GENERATE or not isinstance(run_id, str) or about.get("expired"):
            return
        work = self._abort(run_id, str(request.id), terminated=bool(about.get("terminated")))
        self._runtime.loop.call_soon_threadsafe(self._runtime.spawn, work)

    async def _abort(self, run_id: str, task_id: str, *, terminated: bool) -> None:
        if run_id in self._runtime.segments and terminated:
            return  # the pool has cancelled its segment, which ends the run
        try:
            state = await transitions.read(self._runtime.store, run_id)
            if isinstance(state, transitions.Gone) or not _is_meant(state, task_id, terminated=terminated):
                return
            await self._aborter.pursue(run_id, reason=Reason.USER_ABORT)
        except errors.NotFound:
            return
        except errors.StoreUnavailable:
            logger.warning(
                "a revocation came to nothing: the store is unavailable; abort the run by its id",
                extra={"action": "revocation_lost", "run_id": run_id, "task_id": task_id},
            )
            return
        logger.info("revoked by an operator", extra={"action": "run_revoked", "run_id": run_id})


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop the warning of each worker about each revocation: we have no result backend, on purpose."""
    if not str(record.msg).startswith("Failed to mark task") or not isinstance(record.args, tuple):
        return True
    return not any(isinstance(argument, NotImplementedError) for argument in record.args)


def _is_meant(state: transitions.State, task_id: str, *, terminated: bool) -> bool:
    """Tell whether revoking this task means this state of the run, not a segment that came later.

    Before its first segment every message of a run means the same, also if the outbox sent several.
    """
    if state.status is Status.RUNNING and not terminated:
        return False
    if state.status is not Status.RUNNING and state.status is not Status.QUEUED:
        return False
    return state.record.task_id in ("", task_id) or state.record.segment == 0
