"""Lists the routers of all adapters, and the paths whose errors have a protocol's own format, for `app`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter

from mainstem_api.gateway.adapters.a2a import errors as a2a_errors
from mainstem_api.gateway.adapters.a2a import routes as a2a
from mainstem_api.gateway.adapters.ag_ui import routes as ag_ui
from mainstem_api.gateway.adapters.ai_sdk import routes as ai_sdk
from mainstem_api.gateway.adapters.langgraph import answers as langgraph_answers
from mainstem_api.gateway.adapters.langgraph import assistants
from mainstem_api.gateway.adapters.langgraph import routes as langgraph
from mainstem_api.gateway.adapters.openai_chat import routes as chat
from mainstem_api.gateway.adapters.openai_files import routes as files
from mainstem_api.gateway.adapters.openai_responses import conversations, error_objects
from mainstem_api.gateway.adapters.openai_responses import routes as responses
from mainstem_api.gateway.problems import ErrorFormat

ALL: Final[tuple[APIRouter, ...]] = (
    ai_sdk.router,
    ag_ui.router,
    responses.router,
    conversations.router,
    files.router,
    chat.router,
    a2a.router,
    assistants.router,
    langgraph.router,
)

_OPENAI: Final = ("/v1/responses", "/v1/chat", "/v1/models", "/v1/conversations", "/v1/files")
ERROR_FORMATS: Final[Mapping[str, ErrorFormat]] = {
    **dict.fromkeys(_OPENAI, error_objects.encode),
    "/v1/a2a": a2a_errors.encode,
    langgraph_answers.PREFIX: langgraph_answers.encode_error,
}
"""By prefix of the path; everything else answers problem documents."""
