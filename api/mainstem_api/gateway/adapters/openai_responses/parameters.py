"""Declares what each request member of OpenAI's APIs means here: honoured, passed on, a hint, or refused.

Nothing is accepted without its meaning. `docs/clients.md` prints these tables; a test compares them with the
request models, so that a member cannot be added without an entry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mainstem_shared import errors


class Treatment(StrEnum):
    """What happens to a member of a request."""

    HONOURED = "honoured"
    PASSED = "passed to the engine; refused if its schema does not know it"
    HINT = "passed to engines with `extra_body`; changes nothing elsewhere"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One member. `fine`: values that ask for nothing special, or for what is the case anyway."""

    treatment: Treatment
    why: str = ""
    fine: Collection[Any] = ()


_OPTIONS: Final = Parameter(Treatment.HONOURED, "Mainstem's own: engine, input, if_active, …")
_HONOURED: Final = Parameter(Treatment.HONOURED)
_PASSED: Final = Parameter(Treatment.PASSED)
_HINT: Final = Parameter(Treatment.HINT)


def _refused(why: str, *fine: Any) -> Parameter:
    return Parameter(Treatment.REFUSED, why, fine)


HINTS: Final = ("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user")
_NO_LOGPROBS: Final = "engines report no probabilities."

RESPONSES: Final[Mapping[str, Parameter]] = {
    **dict.fromkeys(
        ("input", "model", "background", "stream", "store", "previous_response_id", "conversation"), _HONOURED
    ),
    **dict.fromkeys(("instructions", "metadata"), _HONOURED),
    **dict.fromkeys(
        ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_output_tokens"), _PASSED
    ),
    **dict.fromkeys(("parallel_tool_calls", "tools", "tool_choice", "reasoning", "text"), _PASSED),
    **dict.fromkeys(HINTS, _HINT),
    "include": Parameter(Treatment.HONOURED, "what items here never have is included nowhere; no logprobs."),
    "truncation": _refused("no conversation is cut here.", "disabled"),
    "top_logprobs": _refused(_NO_LOGPROBS, 0),
    "max_tool_calls": _refused("set the engine's own limit, like max_iterations, in mainstem.input."),
    "context_management": _refused("engines manage their context themselves."),
    "stream_options": Parameter(Treatment.HONOURED, "nothing is obfuscated: include_obfuscation is false."),
    "prompt": _refused("there are no stored prompts here."),
    "mainstem": _OPTIONS,
}

CHAT_COMPLETIONS: Final[Mapping[str, Parameter]] = {
    **dict.fromkeys(("messages", "model", "stream", "stream_options", "metadata"), _HONOURED),
    **dict.fromkeys(("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens"), _PASSED),
    **dict.fromkeys(
        ("max_completion_tokens", "seed", "stop", "tools", "tool_choice", "parallel_tool_calls"), _PASSED
    ),
    **dict.fromkeys(("response_format", "reasoning_effort", "verbosity"), _PASSED),
    **dict.fromkeys(HINTS, _HINT),
    "store": Parameter(Treatment.HONOURED, "completions are runs, which are kept; there is no list of them."),
    "n": _refused("a run is one answer.", 1),
    "logprobs": _refused(_NO_LOGPROBS, False),
    "top_logprobs": _refused(_NO_LOGPROBS, 0),
    "logit_bias": _refused("set it in mainstem.input.extra_body.", {}),
    "modalities": _refused("answers are text.", ["text"]),
    "audio": _refused("answers are text."),
    "prediction": _refused("set it in mainstem.input.extra_body."),
    "web_search_options": _refused("tools that run here belong to the engine."),
    "functions": _refused("the older form of tools."),
    "function_call": _refused("the older form of tool_choice."),
    "mainstem": _OPTIONS,
}


def check(given: Mapping[str, Any], table: Mapping[str, Parameter]) -> None:
    """Refuse members that nobody would honour.

    Raises:
        InvalidRequest: `path` names the member.
    """
    for name, value in given.items():
        known = table.get(name)
        if known is None:
            raise errors.InvalidRequest(f"{name[:80]}: is not known here.", path=name[:80])
        if known.treatment is Treatment.REFUSED and value not in known.fine:
            raise errors.InvalidRequest(f"{name}: {known.why}", path=name)
    if "message.output_text.logprobs" in given.get("include", ()):
        raise errors.InvalidRequest(f"include: {_NO_LOGPROBS}", path="include")


def table(parameters: Mapping[str, Parameter]) -> str:
    """Return a table of parameters in Markdown, for the documentation."""
    rows = [f"| `{name}` | {known.treatment} | {_words(known)} |" for name, known in parameters.items()]
    return "\n".join(["| member | what happens to it | |", "|---|---|---|", *rows]) + "\n"


def _words(known: Parameter) -> str:
    fine = f"fine: {', '.join(f'`{value}`' for value in known.fine)}" if known.fine else ""
    return " ".join(part for part in (known.why, fine) if part)
