"""The `anthropic` engine speaks Anthropic's Messages, by the official SDK.

It takes what the `openai` engine takes; the loop of turns is the same one (`turns`). How a request is encoded
is in `messages` and `requests`, how a stream's events are read in `events`.
"""

from __future__ import annotations

import importlib.util
from typing import Any, ClassVar, Final

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.anthropic.requests import MessagesEndpoint
from mainstem_tasks.engines.turns import loop, transport
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.transport import ProviderClient
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import MissingExtraError, engine

if importlib.util.find_spec("anthropic") is None:
    raise MissingExtraError("the anthropic engine needs its client: pip install 'mainstem[anthropic]'")

PUBLIC_URL: Final = "https://api.anthropic.com"


class MessagesInput(Conversing):
    """A conversation for Claude. What the provider knows beyond these fields goes into `extra_body`."""

    owned: ClassVar[frozenset[str]] = frozenset({"stream", "system"})

    top_k: int | None = None
    thinking: dict[str, Any] | None = None
    """Anthropic's own: `{"type": "enabled", "budget_tokens": 2048}`, or `{"type": "adaptive"}`."""


@engine("anthropic", input_model=MessagesInput, aclose=transport.aclose, checkpoints=True)
async def anthropic_messages(run: RunContext[MessagesInput]) -> None:
    """Stream messages until the model calls no more tools that run here."""
    await loop.converse(run, MessagesEndpoint(await provider_client(run.settings), run.settings))


async def provider_client(settings: Settings) -> ProviderClient:
    """Return the client of the provider that the settings name.

    Raises:
        ProviderError: they name none.
    """
    secret = settings.anthropic_api_key.get_secret_value() if settings.anthropic_api_key else ""
    if not secret and not settings.anthropic_base_url:
        raise errors.ProviderError(
            "No provider is configured: set MAINSTEM_ANTHROPIC_API_KEY or MAINSTEM_ANTHROPIC_BASE_URL."
        )
    url = (settings.anthropic_base_url or PUBLIC_URL).removesuffix("/").removesuffix("/v1")

    def client(sdk: Any) -> Any:
        # Explicit values, so that the SDK's own environment variables have no say. Local servers need no key,
        # but the SDK does. Retries are ours: only we know whether something was emitted.
        return sdk.AsyncAnthropic(base_url=url, api_key=secret or "none", max_retries=0)

    return await ProviderClient.create(
        "anthropic", client, url=url, secret=secret, resource="anthropic.resources.messages"
    )
