"""Builds the response object: status, usage, error, the request's echo. Its items come from `sequencer`."""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.openai_responses.ids import ResponseId
from mainstem_shared.model.runs import Reason, Spec, Usage

ECHO: Final = "openai"
"""Member of a run's metadata with what the response object repeats of its request."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


def status_of(outcome: Mapping[str, Any]) -> str:
    """Return what a finished run's response is."""
    match outcome["status"], outcome["reason"]:
        case "succeeded", _:
            return "completed"
        case "aborted", _:
            return "cancelled"
        case _, Reason.CONTENT_TOO_LARGE:
            return "incomplete"
        case _:
            return "failed"


def event_of(status: str) -> str:
    """Return the type of a stream's last event. There is none for `cancelled`: it is told as incomplete."""
    return "response.incomplete" if status == "cancelled" else f"response.{status}"


def response(
    name: ResponseId,
    spec: Spec,
    *,
    status: str,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    outcome: Mapping[str, Any] | None = None,
    finished_ms: int | None = None,
) -> dict[str, Any]:
    """Return a response object. `outcome`: that of a run which ended in this response."""
    given = spec.metadata.get(ECHO)
    echo: Mapping[str, Any] = given if isinstance(given, dict) else {}
    return {
        "id": str(name),
        "object": "response",
        "created_at": spec.created_ms // 1000,
        "completed_at": finished_ms // 1000 if finished_ms and status == "completed" else None,
        "status": status,
        "background": True,
        "error": _error(outcome) if status == "failed" and outcome else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        **{member: echo.get(member, default) for member, default in _DEFAULTS.items()},
        "model": echo.get("model") or spec.engine,
        "conversation": {"id": spec.thread_id},
        "output": list(output),
        "usage": usage and _usage(usage),
        "store": True,
        "run_id": name.run_id,
    }


def _error(outcome: Mapping[str, Any]) -> dict[str, Any]:
    # The API's codes are a closed list, which strict clients parse as such; ours go beside them.
    failure: Mapping[str, Any] = outcome["error"] or {}
    message = failure.get("message") or f"The run ended: {outcome['reason']}."
    return {"code": "server_error", "message": message, "reason": outcome["reason"]}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    spent = Usage.model_validate(usage)
    return {
        "input_tokens": spent.input_tokens,
        "input_tokens_details": {"cached_tokens": spent.cached_input_tokens, "cache_write_tokens": 0},
        "output_tokens": spent.output_tokens,
        "output_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
        "total_tokens": spent.total_tokens,
    }


def usage_since(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what was spent between two totals; a response reports its own calls only."""
    if now is None:
        return None
    return {name: count - (before or {}).get(name, 0) for name, count in now.items()}
