"""The protocol of chat completions: how a request is encoded, and what of an answer goes back as it came.

The conversation is in this protocol's words already. How chunks are read is in `chunks`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.assembly import extras
from mainstem_tasks.engines.openai.chunks import ChunkReader
from mainstem_tasks.engines.turns.endpoints import Chat, Endpoint
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.transport import ProviderClient


class ChatEndpoint(Endpoint):
    """An endpoint of chat completions."""

    kind: ClassVar[str] = "openai"
    noun: ClassVar[str] = "chat completion"
    is_tagged: ClassVar[bool] = True

    def __init__(self, client: ProviderClient, settings: Settings) -> None:
        super().__init__(client)
        self._model = settings.openai_model
        self._options = {
            "include_usage": True,
            **({"continuous_usage_stats": True} if settings.openai_continuous_usage else {}),
        }

    @override
    def model_of(self, wanted: Conversing) -> str:
        return wanted.model_of(self._model, setting="MAINSTEM_OPENAI_MODEL")

    @override
    def body(self, wanted: Conversing, messages: Sequence[Chat], tools: Sequence[Mapping[str, Any]]) -> Chat:
        body = {**wanted.given(), "messages": list(messages), "model": self.model_of(wanted)}
        return {**body, "tools": list(tools)} if tools else body

    @override
    def bound_of(self, body: Mapping[str, Any]) -> int | None:
        return body.get("max_completion_tokens") or body.get("max_tokens")

    @override
    def bind(self, body: Chat, tokens: int) -> None:
        # OpenAI's newer models refuse the older name.
        body["max_completion_tokens" if self.provider == "openai" else "max_tokens"] = tokens

    @override
    def pieces(self) -> ChunkReader:
        return ChunkReader()

    @override
    def stream(self, body: Mapping[str, Any], *, silence_s: float) -> AsyncGenerator[bytes]:
        return self.provider_client.stream(
            lambda timeout: self.provider_client.client.chat.completions.with_streaming_response.create(
                model=str(body.get("model")),
                messages=[],  # all of the body is in `extra_body`, as it is
                stream=True,
                extra_body={"stream_options": self._options, **body, "stream": True},
                timeout=timeout,
            ),
            silence_s=silence_s,
        )

    @override
    def refuses_own(self, error: errors.ProviderError, messages: Sequence[Chat]) -> bool:
        return any(name in str(error) for name in extras.names_in(messages))

    @override
    def without_own(self, messages: Sequence[Chat]) -> list[Chat]:
        return extras.without(messages)
