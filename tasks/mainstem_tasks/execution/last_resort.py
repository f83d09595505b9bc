"""Ends a run of this process by what the store has of it, when its segment cannot.

Its segment, and `segments.execute` where there is none, call it; sweepers do the same for other processes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import ending
from mainstem_tasks.execution import verdicts
from mainstem_tasks.execution.runtime import Runtime

logger = logging.getLogger(__name__)

NOTHING_TO_DO: Final = "nothing to do"
"""What a segment returns for a run that is not its process's to execute."""
FINISH_PATIENCE_S: Final = 300.0
"""Bounded retries of the terminal write; afterwards the run is swept like that of a dead owner."""
UNREADABLE: Final = verdicts.failed(
    Reason.ENGINE_ERROR, "Mainstem could not go on with this run: its record or its content is unreadable."
)


async def end_as_it_stands(runtime: Runtime, control: transitions.Control) -> str:
    """End a run of this process by what the store has of it: the last resort, which no content can fail.

    An epoch of 0 stands for whichever this process has.
    """
    run_id, owner = control.run_id, control.owner
    epoch = control.epoch
    try:
        if not epoch:
            state = await transitions.read(runtime.store, run_id, patience_s=FINISH_PATIENCE_S)
            if isinstance(state, transitions.Gone) or state.owner != owner:
                return NOTHING_TO_DO
            epoch = state.epoch
        async with asyncio.timeout(FINISH_PATIENCE_S):
            ended = await ending.take_and_end(
                runtime.operations,
                run_id,
                sealer=owner,
                reason=UNREADABLE.reason,
                error=UNREADABLE.error,
                expected_epoch=epoch,
            )
    except (errors.Unavailable, TimeoutError):
        logger.exception("RUN NOT FINISHED", extra={"action": "finish_failed", "run_id": run_id})
        return "unfinished"
    return ended.reason.value if ended is not None and ended.mine else "lost"
