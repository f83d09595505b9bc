"""Ids and statuses of OpenAI's Responses API for a run: for its adapter, and for OpenAI-style webhooks.

`resp_<run id>` is a run up to its first pause, `resp_<run id>_<n>` what follows its n-th pause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mainstem_shared.model.runs import Reason

INCOMPLETE: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a model stopped before its answer was complete, and what that is called here."""


class ResponseId(NamedTuple):
    """A response: a run, and how many of its pauses were decided before."""

    run_id: str
    turn: int = 0

    def __str__(self) -> str:
        return f"resp_{self.run_id}_{self.turn}" if self.turn else f"resp_{self.run_id}"


def status_of(outcome: Mapping[str, Any]) -> str:
    """Return what a finished run's response is: of `status`, `reason` and `finish_reason`."""
    match outcome["status"], outcome["reason"]:
        case "succeeded", _:
            return "incomplete" if outcome.get("finish_reason") in INCOMPLETE else "completed"
        case "aborted", _:
            return "cancelled"
        case _, Reason.CONTENT_TOO_LARGE:
            return "incomplete"
        case _:
            return "failed"
