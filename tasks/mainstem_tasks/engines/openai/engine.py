"""The `openai` engine speaks chat completions, or Responses, to any provider that speaks OpenAI's protocols.

MAINSTEM_OPENAI_API chooses. Text, reasoning, tool calls with streaming arguments, usage and the reason the
model stopped; the loop of turns is in `turns`, what each protocol has of its own in `chat` and `responses`.
"""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar, Literal

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.openai.chat import ChatEndpoint
from mainstem_tasks.engines.openai.responses import ResponsesEndpoint
from mainstem_tasks.engines.turns import loop, transport
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.transport import ProviderClient
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import MissingExtraError, engine

if importlib.util.find_spec("openai") is None:
    raise MissingExtraError("the openai engine needs its client: pip install 'mainstem[openai]'")

PUBLIC_URL = "https://api.openai.com/v1"


class ChatInput(Conversing):
    """A chat completion request. What the provider knows beyond these fields goes into `extra_body`."""

    owned: ClassVar[frozenset[str]] = frozenset({"stream", "n", "input"})

    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


@engine("openai", input_model=ChatInput, aclose=transport.aclose, checkpoints=True)
async def openai_chat(run: RunContext[ChatInput]) -> None:
    """Stream answers until the model calls no more tools that run here."""
    settings = run.settings
    kind = ResponsesEndpoint if settings.openai_api == "responses" else ChatEndpoint
    await loop.converse(run, kind(await provider_client(settings), settings))


async def provider_client(settings: Settings) -> ProviderClient:
    """Return the client of the provider that the settings name.

    Raises:
        ProviderError: they name none.
    """
    secret = settings.openai_api_key.get_secret_value() if settings.openai_api_key else ""
    if not secret and not settings.openai_base_url:
        raise errors.ProviderError(
            "No provider is configured: set MAINSTEM_OPENAI_API_KEY or MAINSTEM_OPENAI_BASE_URL."
        )
    url = settings.openai_base_url or PUBLIC_URL

    def client(sdk: Any) -> Any:
        # Explicit values, so that the SDK's own environment variables have no say. Local servers need no key,
        # but the SDK does. Retries are ours: only we know whether something was emitted.
        return sdk.AsyncOpenAI(base_url=url, api_key=secret or "none", max_retries=0)

    return await ProviderClient.create(
        "openai", client, url=url, secret=secret, resource="openai.resources.chat.completions"
    )
