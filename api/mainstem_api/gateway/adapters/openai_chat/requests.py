"""Parses Chat Completions requests: a conversation, or decisions about a paused run. Pure.

The format is the one that engines of `messages` take, so messages go on as they came.
"""

# what clients send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field

from mainstem_api.gateway.adapters import engine_input
from mainstem_api.gateway.adapters.engine_input import Given, Options
from mainstem_api.gateway.adapters.openai_responses import ids, parameters
from mainstem_api.gateway.adapters.openai_responses.requests import Verdicts
from mainstem_shared import errors

ECHO_MODEL: Final = "openai_model"
"""Member of a run's metadata: the `model` that was asked for."""
ECHO_METADATA: Final = "openai_metadata"
"""Member of a run's metadata: the request's own, which a completion repeats."""
RUNS_READ: Final = 20
"""Of so many earlier runs at most the store is asked for the calls that ran here."""


class ChatCompletionRequest(BaseModel):
    """A request for a completion. What each member means here, if anything, stands in `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    model: Annotated[str, Field(max_length=256)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    mainstem: Options = Field(default_factory=Options)

    def check(self) -> None:
        """Refuse what cannot be done as asked.

        Raises:
            InvalidRequest: `path` names the member.
        """
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        parameters.check(given, parameters.CHAT_COMPLETIONS)
        for at, message in enumerate(self.messages):
            if not isinstance(message.get("role"), str):
                raise errors.InvalidRequest(f"messages[{at}]: a message has a role.", path=f"messages[{at}]")

    def parameters(self) -> dict[str, Given]:
        """Return what only an engine can honour."""
        table = parameters.CHAT_COMPLETIONS
        return {
            name: Given(name, value)
            for name, value in (self.model_extra or {}).items()
            if value is not None and table[name].treatment is parameters.Treatment.PASSED
        }

    def hints(self) -> dict[str, Any]:
        """Return what a provider may make use of."""
        given = self.model_extra or {}
        return {
            name: given[name] for name in parameters.HINTS if given.get(name) not in (None, "auto", "default")
        }

    def echo(self, engine: str) -> dict[str, Any]:
        """Return what completions repeat of this request."""
        given = {} if self.metadata is None else {ECHO_METADATA: self.metadata}
        return {ECHO_MODEL: self.model or engine, **given}

    @property
    def tells_usage(self) -> bool:
        """Whether a stream's last chunk is to say what was spent."""
        return bool((self.stream_options or {}).get("include_usage"))


def verdicts(messages: Sequence[Mapping[str, Any]]) -> Verdicts | None:
    """Return what the last messages decide about a paused run; None if they do not.

    Raises:
        InvalidDecision: they are about several actions.
    """
    decided: list[tuple[ids.Asked, str]] = []
    for message in reversed(messages):
        asked = ids.asked(str(message.get("tool_call_id"))) if message.get("role") == "tool" else None
        if asked is None:
            break
        decided.insert(0, (asked, str(message.get("content")).strip()))
    if not decided:
        return None
    first, _ = decided[0]
    if any((asked.run_id, asked.action_id) != (first.run_id, first.action_id) for asked, _ in decided):
        raise errors.InvalidDecision("The messages decide about several actions at once.")
    return Verdicts(
        run_id=first.run_id,
        action_id=first.action_id,
        decisions=[_decision(asked.id, text) for asked, text in decided if asked.is_approval],
        answers=[{"question_id": asked.id, "text": text} for asked, text in decided if not asked.is_approval],
    )


def runs_of(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the runs that called some tools themselves, and left others to the client: the newest ones."""
    named = [call_id for message in messages for call_id in _call_ids(message)]
    runs = [found[1] for found in map(ids.parts_of_shared, named) if found is not None]
    return list(dict.fromkeys(runs))[-RUNS_READ:]


def _call_ids(message: Mapping[str, Any]) -> list[str]:
    calls = message.get("tool_calls")
    given = cast("list[Any]", calls) if isinstance(calls, list) else []
    return [str(cast("dict[str, Any]", call).get("id")) for call in given if isinstance(call, dict)]


def whole(
    messages: Sequence[Mapping[str, Any]], contents: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return a conversation in which the answers of these runs have the calls that ran here, with results.

    A client of this API knows only the calls that are its own; a model is told all that it called.
    """
    told: list[dict[str, Any]] = []
    for message in messages:
        shared = [found for found in map(ids.parts_of_shared, _call_ids(message)) if found]
        if shared and shared[0][1] in contents:
            told += engine_input.transcript(contents[shared[0][1]])
        elif shared:
            calls = [{**call, "id": _own_id(call.get("id"))} for call in message["tool_calls"]]
            told.append({**message, "tool_calls": calls})
        elif message.get("role") == "tool":
            told.append({**message, "tool_call_id": _own_id(message.get("tool_call_id"))})
        else:
            told.append(dict(message))
    return told


def _own_id(call_id: Any) -> Any:
    shared = ids.parts_of_shared(str(call_id))
    return call_id if shared is None else shared[0]


def _decision(call_id: str, text: str) -> dict[str, Any]:
    if text.casefold() == "approve":
        return {"call_id": call_id, "type": "approve"}
    reason = text if text.casefold() != "reject" else None
    return {"call_id": call_id, "type": "reject", "reason": reason}
