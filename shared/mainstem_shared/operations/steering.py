"""Stores a user's input in a run's record and notifies the owner; `execution.inputs` fetches it there.

The run's record is the truth: an accepted input stands there until the run is over, so that whoever runs
it next, from whatever checkpoint, is told it again. What the engine has read is what the log says
(`input.accepted`, in order); the end hands the rest back. For `AsyncRuns`, segments and sweepers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mainstem_shared import errors, guards, transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.guards import Kind, Said
from mainstem_shared.model import ids, jsontext, runs, validation
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.operations.performing import STEER, Operations
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)


TEXT_LIMIT: Final = 64 * 1024
"""Largest input, in bytes of JSON: a long message, no file."""


class InputRequest(BaseModel):
    """What a user says to a run. Repeating it with the same `input_id` says it once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Annotated[str, Field(min_length=1)]
    input_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")] | None = None


class Receipt(BaseModel):
    """An input was accepted: the engine reads it, or it is handed back when the run ends."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    input_id: str
    number: int
    """Its place among the run's inputs, from 1; they are read in this order."""
    accepted_at: runs.Timestamp


def parse_request(fields: Mapping[str, Any]) -> InputRequest:
    """Build a request from what a caller gave.

    Raises:
        InvalidRequest: it does not fit; says where.
        InputTooLarge: the text is larger than a log entry may hold.
    """
    try:
        request = InputRequest.model_validate(jsontext.well_formed(dict(fields)))
    except ValidationError as error:
        raise validation.invalid_request(error) from error
    if not request.text.strip():
        raise errors.InvalidRequest("text: says nothing.")
    size = len(jsontext.dumps(request.text))
    if size > TEXT_LIMIT:
        raise errors.InputTooLarge(what="text", size=size, limit=TEXT_LIMIT)
    return request


async def send(operations: Operations, spec: Spec, *, request: InputRequest, by: str | None) -> Receipt:
    """Say something to a run that is at work, or waits for a worker; `by`: the user, for the log.

    When this returns it is durable. Whether the caller may do this is for the caller to know.

    Raises:
        InvalidRequest: a guard refuses the text.
        RunPaused, RunNotActive, InputQueueFull: the run does not take it now, or any more.
        InputIdReused: the id stands for another text.
        NotFound: there is no such run.
        StoreUnavailable: accepted or not; send it again with the same id.
    """
    guards.check(operations.settings.input_guards, Said(kind=Kind.STEERING, value=request.text, spec=spec))
    run_id, input_id = spec.run_id, request.input_id or f"in_{ids.token()}"

    async def notify(answer: object) -> None:
        if isinstance(answer, transitions.Accepted) and answer.owner:
            await notify_owner(operations.store, run_id, answer.owner)

    steer = STEER.of(run_id, input_id=input_id, text=request.text, by=by)
    answer = await operations.perform(steer, notify=notify)
    match answer:
        case transitions.Accepted():
            pass
        case transitions.Declined():
            raise _refusal(answer, input_id)
        case _:
            raise errors.NotFound
    logger.info("input accepted", extra={"action": "input_accepted", "run_id": run_id, "input_id": input_id})
    return Receipt(
        run_id=run_id,
        input_id=input_id,
        number=answer.number,
        accepted_at=runs.at_ms(answer.at_ms),
    )


async def notify_owner(store: Store, run_id: str, owner: str) -> None:
    """Tell a run's owner that its record has inputs; a sweeper repeats what fails here."""
    try:
        await mailboxes.post(store, owner, mailboxes.InputMessage(run_id=run_id))
    except errors.StoreUnavailable:
        logger.warning("mail was not sent", extra={"action": "mail_failed", "run_id": run_id})


def _refusal(answer: transitions.Declined, input_id: str) -> errors.Conflict:
    match answer.why:
        case "paused":
            return errors.RunPaused()
        case "reused":
            return errors.InputIdReused(input_id=input_id)
        case "full":
            return errors.InputQueueFull(
                waiting=transitions.INPUTS_WAITING_LIMIT, total=transitions.INPUTS_LIMIT
            )
        case _:
            status = Status(answer.status)
            return errors.RunNotActive(status=status.value if status.is_terminal else "being aborted")
