"""Converts a conversation to Pydantic AI's messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)

from mainstem_tasks.engines.frameworks.conversations import Chat, without_thread

Prompt = str | list[UserContent]


def model_messages(chat: Iterable[Chat]) -> list[ModelMessage]:
    """Return chat completions' messages as Pydantic AI's."""
    names: dict[str, str] = {}
    return [_message(said, names) for said in chat]


def state_of(messages: Sequence[ModelMessage], thread: Sequence[ModelMessage]) -> dict[str, Any]:
    """Return messages as a state keeps them: without those of the thread, which has them."""
    rest = without_thread(messages, thread)
    kept = list(messages) if rest is None else rest
    dumped = ModelMessagesTypeAdapter.dump_python(kept, mode="json")
    return {"messages": dumped, "after_thread": rest is not None}


def prompt(chat: Iterable[Chat]) -> Prompt:
    """Return what a user's messages say, as one prompt."""
    pieces: list[UserContent] = []
    for said in chat:
        content = _content(said.get("content"))
        pieces += [content] if isinstance(content, str) else content
    texts = [piece for piece in pieces if isinstance(piece, str)]
    return "\n".join(texts) if len(texts) == len(pieces) else pieces


def _message(said: Chat, names: dict[str, str]) -> ModelMessage:
    match said["role"]:
        case "assistant":
            return _response(said, names)
        case "tool":
            call_id = said["tool_call_id"]
            answered = ToolReturnPart(
                tool_name=names.get(call_id, "tool"), content=said["content"], tool_call_id=call_id
            )
            return ModelRequest(parts=[answered])
        case "system":
            return ModelRequest(parts=[SystemPromptPart(content=str(said["content"]))])
        case _:
            return ModelRequest(parts=[UserPromptPart(content=_content(said["content"]))])


def _response(said: Chat, names: dict[str, str]) -> ModelResponse:
    calls: list[dict[str, Any]] = said.get("tool_calls") or []
    names.update({call["id"]: call["function"]["name"] for call in calls})
    texts = [TextPart(content=said["content"])] if said.get("content") else []
    called = [
        ToolCallPart(
            tool_name=call["function"]["name"], args=call["function"]["arguments"], tool_call_id=call["id"]
        )
        for call in calls
    ]
    return ModelResponse(parts=[*texts, *called])


def _content(content: Any) -> Prompt:
    if isinstance(content, str):
        return content
    return [_piece(piece) for piece in content or ()]


def _piece(piece: dict[str, Any]) -> UserContent:
    match piece["type"]:
        case "text":
            return str(piece["text"])
        case "image_url":
            url = str(piece["image_url"]["url"])
            return BinaryContent.from_data_uri(url) if url.startswith("data:") else ImageUrl(url=url)
        case _:
            return BinaryContent.from_data_uri(str(piece["file"]["file_data"]))
