"""Builds the response object: status, usage, error, the request's echo. Its items come from `sequencer`."""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mainstem_shared.model.openai_responses import INCOMPLETE, ResponseId
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.usage import Usage

ECHO: Final = "openai"
"""Member of a run's metadata with what the response object repeats of its request."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}


_TOOL: Final[Mapping[str, Any]] = {"description": None, "parameters": None, "strict": None}
"""Members that every tool of a response object has."""


def _why_incomplete(outcome: Mapping[str, Any] | None) -> str:
    return INCOMPLETE.get((outcome or {}).get("finish_reason", ""), "max_output_tokens")


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
    echo = _echo(spec)
    return {
        "id": str(name),
        "object": "response",
        "created_at": spec.created_ms // 1000,
        "completed_at": finished_ms // 1000 if finished_ms and status == "completed" else None,
        "status": status,
        "background": bool(echo.get("background", True)),
        "error": _error(outcome) if status == "failed" and outcome else None,
        "incomplete_details": {"reason": _why_incomplete(outcome)} if status == "incomplete" else None,
        **{member: echo.get(member, default) for member, default in _DEFAULTS.items()},
        "tools": [{**_TOOL, **tool} for tool in echo.get("tools", ())],
        "model": echo.get("model") or spec.engine,
        "conversation": {"id": spec.thread_id},
        "output": list(output),
        "usage": usage and _usage(usage),
        "store": bool(echo.get("store", True)),
        "run_id": name.run_id,
    }


def wants_summaries(spec: Spec) -> bool:
    """Tell whether the request asked for summaries of the reasoning (`reasoning.summary`)."""
    reasoning: Any = _echo(spec).get("reasoning")
    return isinstance(reasoning, dict) and bool(cast("dict[str, Any]", reasoning).get("summary"))


def _echo(spec: Spec) -> Mapping[str, Any]:
    given: Any = spec.metadata.get(ECHO)
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def _error(outcome: Mapping[str, Any]) -> dict[str, Any]:
    # The API's codes are a closed list, which strict clients parse as such; ours go beside them.
    failure: Mapping[str, Any] = outcome["error"] or {}
    message = failure.get("message") or f"The run ended: {outcome['reason']}."
    code = {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(failure.get("status") or 0, "server_error")
    return {"code": code, "message": message, "reason": outcome["reason"]}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    spent = Usage.model_validate(usage)
    return {
        "input_tokens": spent.input_tokens,
        "input_tokens_details": {
            "cached_tokens": spent.cached_input_tokens,
            "cache_write_tokens": spent.cache_write_tokens,
        },
        "output_tokens": spent.output_tokens,
        "output_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
        "total_tokens": spent.total_tokens,
        **({"estimated": True} if spent.estimated else {}),
    }


def usage_since(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what was spent between two totals; a response reports its own calls only."""
    if now is None:
        return None
    counts = {name: count for name, count in now.items() if type(count) is int}
    since = {name: count - (before or {}).get(name, 0) for name, count in counts.items()}
    return {**since, "estimated": True} if now.get("estimated") else since
