"""The protocol of Anthropic's Messages: how a request is encoded, and what of an answer goes back as it came.

Answers are kept as the blocks they came in: thoughts with their signatures, redacted ones, what servers' own
tools said. How the conversation is encoded is in `messages`.
"""

# what clients send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar, Final

from typing_extensions import override

from mainstem_shared.settings import Settings
from mainstem_tasks.engines.anthropic import messages as spelling
from mainstem_tasks.engines.anthropic.events import BLOCKS, EventReader
from mainstem_tasks.engines.turns.endpoints import Chat, Endpoint
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.transport import ProviderClient

_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
_UNKNOWN: Final = (
    "max_completion_tokens",
    "stop",
    "response_format",
    "reasoning_effort",
    "parallel_tool_calls",
)
"""Members that have another name here."""


class MessagesEndpoint(Endpoint):
    """An endpoint of Anthropic's Messages."""

    kind: ClassVar[str] = "anthropic"
    own: ClassVar[str] = BLOCKS
    noun: ClassVar[str] = "message"

    def __init__(self, client: ProviderClient, settings: Settings) -> None:
        super().__init__(client)
        self._model = settings.anthropic_model
        self._max_tokens = settings.anthropic_max_tokens

    @override
    def model_of(self, wanted: Conversing) -> str:
        return wanted.model_of(self._model, setting="MAINSTEM_ANTHROPIC_MODEL")

    @override
    def body(self, wanted: Conversing, messages: Sequence[Chat], tools: Sequence[Mapping[str, Any]]) -> Chat:
        given = wanted.given()
        instructions, turns = spelling.conversation(messages)
        body: Chat = {name: value for name, value in given.items() if name not in _UNKNOWN}
        body |= {"model": self.model_of(wanted), "messages": turns}
        if instructions:
            body["system"] = instructions
        if (bound := given.get("max_completion_tokens") or given.get("max_tokens")) is not None:
            body["max_tokens"] = bound
        if stop := given.get("stop"):
            body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        if about := _output(given):
            body["output_config"] = {**body.get("output_config", {}), **about}
        if tools:
            body["tools"] = [_tool(tool) for tool in tools]
        return _choosing(body, given)

    @override
    def bound_of(self, body: Mapping[str, Any]) -> int | None:
        return body.get("max_tokens")

    @override
    def bind(self, body: Chat, tokens: int) -> None:
        body["max_tokens"] = min(tokens, self._max_tokens)

    @override
    def pieces(self) -> EventReader:
        return EventReader()

    @override
    def stream(self, body: Mapping[str, Any], *, silence_s: float) -> AsyncGenerator[bytes]:
        bounded = {"max_tokens": self._max_tokens, **body, "stream": True}
        return self.provider_client.stream(
            lambda timeout: self.provider_client.client.messages.with_streaming_response.create(
                model=str(body.get("model")),
                max_tokens=bounded["max_tokens"],
                messages=[],  # all of the body is in `extra_body`, as it is
                stream=True,
                extra_body=bounded,
                timeout=timeout,
            ),
            silence_s=silence_s,
        )

    @override
    def words_of_own(self) -> Sequence[str]:
        return ("thinking", "signature")


def _output(given: Mapping[str, Any]) -> Chat:
    about: Chat = {}
    if (effort := given.get("reasoning_effort")) is not None:
        about["effort"] = effort
    if isinstance(wanted := (given.get("response_format") or {}).get("json_schema"), Mapping):
        about["format"] = {"type": "json_schema", "schema": wanted.get("schema")}
    return about


def _choosing(body: Chat, given: Mapping[str, Any]) -> Chat:
    """Say which tools may be called; without tools there is nothing to say."""
    choice = body.pop("tool_choice", None)
    if not body.get("tools"):
        return body
    if isinstance(choice, str):
        choice = {"type": _CHOICES.get(choice, choice)}
    elif isinstance(choice, Mapping) and isinstance(function := choice.get("function"), Mapping):
        choice = {"type": "tool", "name": function.get("name")}
    if given.get("parallel_tool_calls") is False:
        choice = {"type": "auto", **(choice or {}), "disable_parallel_tool_use": True}
    return {**body, "tool_choice": choice} if choice else body


def _tool(tool: Mapping[str, Any]) -> Chat:
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return dict(tool)  # Anthropic's own
    described = {name: function[name] for name in ("name", "description") if function.get(name)}
    return {**described, "input_schema": function.get("parameters") or {"type": "object"}}
